"""The pipes of the guest's serial port, with this process in the place of QEMU."""

import fcntl
import os

from initrd.host.machine.serialport import SerialPipes


def test_output_is_blocking_after_qemu_has_made_it_non_blocking() -> None:
    with SerialPipes() as serial:
        _, stdout = serial.of_qemu
        of_qemu = os.dup(stdout)
        try:
            os.set_blocking(of_qemu, False)
            os.write(of_qemu, b"x")
            serial.make_blocking()
            assert os.get_blocking(of_qemu)
            serial.make_blocking()  # for each piece of the output
        finally:
            os.close(of_qemu)
        assert os.read(serial.output, 2) == b"x"
        assert os.read(serial.output, 2) == b""  # QEMU alone had the other end


def test_all_ends_are_closed_with_the_pipes() -> None:
    with SerialPipes() as serial:
        ends = (*serial.of_qemu, serial.keyboard, serial.output)
        serial.close(serial.keyboard)
        opened = [end for end in ends if is_open(end)]
    assert opened == [end for end in ends if end != ends[2]]
    assert not any(map(is_open, ends))


def is_open(descriptor: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except OSError:
        return False
    return True
