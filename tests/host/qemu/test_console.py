"""What the console says about how the guest ended."""

import pytest

from initrd.host.qemu.console import ConsoleLog, Ending, parse_ending

FAILED = "initrd: boot failed: cannot mount data: no tag data\ninitrd: try: another tag\n"
KERNEL = "[    2.105578] reboot: Power down\n"


def panic(text: str) -> str:
    return f"[    2.57] Kernel panic - not syncing: {text}\n[    2.58] CPU: 0 PID: 1\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "",
            Ending(failure="the machine reset itself before its kernel said a word"),
            id="nothing was said",
        ),
        pytest.param(
            f"initrd: cannot start: no memory. Powering off.\n{KERNEL}",
            Ending(failure="no memory. Powering off."),
            id="the launcher gives up",
        ),
        pytest.param(f"hello\n{KERNEL}", Ending(), id="powered off"),
        pytest.param(
            f"{FAILED}initrd: powering off\n{KERNEL}",
            Ending(failure="cannot mount data: no tag data\ntry: another tag"),
            id="boot failed, on the console",
        ),
        pytest.param(
            f"[    1.05] initrd: boot failed: no root\n[    1.06] initrd: powering off\n{KERNEL}",
            Ending(failure="no root"),
            id="boot failed, through the kernel log",
        ),
        pytest.param(f"{FAILED}{KERNEL}hello\n", Ending(), id="a target that prints such words"),
        pytest.param("initrd: fuse: not loaded\nhello\n", Ending(), id="a warning and a target"),
        pytest.param(
            panic("Attempted to kill init! exitcode=0x00000700"), Ending(7), id="target exits"
        ),
        pytest.param(
            panic("Attempted to kill init! exitcode=0x0000000b"), Ending(-11), id="target crashes"
        ),
        pytest.param(
            panic("Attempted to kill init! exitcode=0x0000008b"), Ending(-11), id="and dumps core"
        ),
        pytest.param(
            panic("VFS: Unable to mount root fs on unknown-block(0,0)"),
            Ending(
                failure="the kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0)"
            ),
            id="the kernel gives up",
        ),
        pytest.param(
            FAILED + panic("Attempted to kill init! exitcode=0x00000100"),
            Ending(failure="cannot mount data: no tag data\ntry: another tag"),
            id="initrd.onfail=panic",
        ),
    ],
)
def test_the_ending(text: str, expected: Ending) -> None:
    assert parse_ending(text) == expected


def test_the_log_ends_lines_as_here() -> None:
    log = ConsoleLog()
    log.see(b"one\r\n")
    log.see(b"tw\xc3")
    log.see(b"\xa4\r\n")
    assert log.text == "one\ntw\u00e4\n"


def test_the_log_keeps_the_end() -> None:
    log = ConsoleLog()
    for number in range(300):
        log.see(b"%09d\n" % number * 1000)
    assert log.text.endswith("000000299\n")
    assert len(log.text) <= 2 << 20
