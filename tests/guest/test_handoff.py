"""Execution of the target: its environment, signals, and errors."""

import errno

import pytest

from initrd.guest.failure import BootError
from initrd.guest.handoff import execute_target, target_environment
from initrd.guest.log import Log
from tests.fake_kernel import FakeKernel


def test_environment_from_the_kernel_is_passed_to_the_target_in_order() -> None:
    environ = {b"HOME": b"/", b"TERM": b"linux", b"foo": b"bar", b"odd": b"\xff", b"LC_CTYPE": b"C"}
    assert target_environment(environ) == environ
    assert list(target_environment(environ)) == list(environ)


@pytest.mark.parametrize(
    "name",
    [
        b"rootfs",
        b"mount",
        b"mount-ro",
        b"mount_ro",
        b"overlay_root",
        b"ip",
        b"rootfstype",
        b"rootflags",
    ],
)
def test_options_of_init_are_removed_from_the_environment_of_the_target(name: bytes) -> None:
    assert target_environment({name: b"x", b"HOME": b"/"}) == {b"HOME": b"/"}


def test_signals_are_reset_before_the_target_is_executed() -> None:
    kernel = FakeKernel()
    with pytest.raises(AssertionError):
        execute_target("/bin/x", ["a"], kernel, Log(kernel))  # type: ignore[arg-type]
    assert [call[0] for call in kernel.calls] == ["reset_signals", "execute"]


def test_execve_error_names_the_target() -> None:
    kernel = FakeKernel(errors={"execute": errno.ENOENT})
    with pytest.raises(BootError, match="/no/such/init"):
        execute_target("/no/such/init", [], kernel, Log(kernel))  # type: ignore[arg-type]
