"""How a guest ended, read from its console output; and the log of that output."""

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
            Ending(failure="the machine reset itself before its kernel printed anything"),
            id="no output",
        ),
        pytest.param(
            f"initrd: cannot start: no memory. Powering off.\n{KERNEL}",
            Ending(failure="no memory. Powering off."),
            id="the launcher of /init fails",
        ),
        pytest.param(f"hello\n{KERNEL}", Ending(), id="the target powers off"),
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
        pytest.param(
            "[ 1.05][    T1] initrd: boot failed: no root\n[ 1.06][   T20] reboot: Power down\n",
            Ending(failure="no root"),
            id="boot failed, with the caller of each message (CONFIG_PRINTK_CALLER)",
        ),
        pytest.param(
            f"{FAILED}initrd: powering off\nreboot: Power down\n",
            Ending(failure="cannot mount data: no tag data\ntry: another tag"),
            id="boot failed, without timestamps",
        ),
        pytest.param(
            panic("x") + "hello\n" + KERNEL, Ending(), id="a target prints the text of a panic"
        ),
        pytest.param(
            panic("x") + "[    2.6] ---[ end Kernel panic - not syncing: x ]---\n",
            Ending(failure="the kernel panicked: x"),
            id="a panic with a last line",
        ),
        pytest.param(f"{FAILED}{KERNEL}hello\n", Ending(), id="a target prints the same message"),
        pytest.param(
            "initrd: fuse: not loaded\nhello\n",
            Ending(),
            id="a warning of init before the output of the target",
        ),
        pytest.param(
            f"[    1.05] x initrd: boot failed: y\n{KERNEL}",
            Ending(),
            id="the kernel prints the text in another message",
        ),
        pytest.param(
            panic("Attempted to kill init! exitcode=0x00000700"),
            Ending(7, target_ended=True),
            id="the target exits",
        ),
        pytest.param(
            panic("Attempted to kill init! exitcode=0x0000000b"),
            Ending(-11, target_ended=True),
            id="the target dies of a signal",
        ),
        pytest.param(
            panic("Attempted to kill init! exitcode=0x0000008b"),
            Ending(-11, target_ended=True),
            id="the target dumps core",
        ),
        pytest.param(
            panic("VFS: Unable to mount root fs on unknown-block(0,0)"),
            Ending(
                failure="the kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0)"
            ),
            id="the kernel panics before init runs",
        ),
        pytest.param(
            FAILED + panic("Attempted to kill init! exitcode=0x00000100"),
            Ending(failure="cannot mount data: no tag data\ntry: another tag"),
            id="initrd.onfail=panic",
        ),
    ],
)
def test_ending_is_read_from_the_console_output(text: str, expected: Ending) -> None:
    assert parse_ending(text) == expected


def test_console_log_decodes_utf8_and_drops_carriage_returns() -> None:
    log = ConsoleLog()
    log.append(b"one\r\n")
    log.append(b"tw\xc3")
    log.append(b"\xa4\r\n")
    assert log.text == "one\ntw\u00e4\n"


def test_console_log_keeps_the_end_of_a_long_output() -> None:
    log = ConsoleLog()
    for number in range(300):
        log.append(b"%09d\n" % number * 1000)
    assert log.text.endswith("000000299\n")
    assert len(log.text) <= 2 << 20


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x1c", "\x0b", "\f"])
def test_only_a_line_feed_begins_a_line_of_the_kernel(separator: str) -> None:
    line = f"[    1.0] a: process x{separator}[    1.1] initrd: boot failed: forged\n"
    assert parse_ending(f"{line}[    1.2] reboot: Power down\n") == Ending()
