"""A kernel that panics while a command runs: found in the console's text, with its report."""

import time

import pytest

from initrd.host.qemu.console import find_panic

MEMORY = 256 << 20
PANIC = "[    2.44] Kernel panic - not syncing: "
POWER_DOWN = "[    2.50] reboot: Power down\n"
WARNING = (
    "[    1.10] ------------[ cut here ]------------\n"
    "[    1.10] WARNING: CPU: 0 PID: 1 at kernel/x.c:1\n"
    "[    1.11] ---[ end trace 0000000000000000 ]---\n"
)
OOPS = (
    "[    2.40] BUG: kernel NULL pointer dereference, address: 0000000000000000\n"
    "[    2.40] #PF: supervisor write access in kernel mode\n"
    "[    2.41] Oops: 0002 [#1] PREEMPT SMP NOPTI\n"
    "[    2.42] RIP: 0010:f+0x1/0x2\n"
    "[    2.43] ---[ end trace 0000000000000000 ]---\n"
    "[    2.43] RIP: 0010:f+0x1/0x2\n"
)


def report_of(text: str) -> str:
    error = find_panic(text, MEMORY)
    assert error
    return error.report


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{PANIC}sysrq triggered crash\n[    2.45] CPU: 0\n", "sysrq triggered crash"),
        (f"{OOPS}{PANIC}Fatal exception\n", "Fatal exception"),
        (
            f"{PANIC}Attempted to kill init! exitcode=0x0000000b\n",
            "Attempted to kill init! exitcode=0x0000000b",
        ),
        (f"{PANIC}x\n[    2.5] ---[ end Kernel panic - not syncing: x ]---\n", "x"),
        (f"{PANIC}first\n{PANIC}second\n", "second"),
        (f"{POWER_DOWN}{PANIC}x\n", "x"),
        ("", "the machine reset itself, and its kernel printed no reason"),
        ("[    2.4] a message\n", "the machine reset itself, and its kernel printed no reason"),
    ],
)
def test_panic_has_the_reason_of_the_kernel(text: str, why: str) -> None:
    error = find_panic(text, MEMORY)
    assert error and (error.what, error.why) == ("the guest's kernel panicked", why)


@pytest.mark.parametrize(
    "end",
    [
        POWER_DOWN,
        "[    2.5] reboot: Restarting system\n",
        "[    2.5] reboot: System halted\n",
        "[    2.5] sysrq: Resetting\n",
        "[    2.5] sysrq: Power Off\n",
    ],
)
def test_panic_before_a_shutdown_is_text_of_the_command(end: str) -> None:
    assert find_panic(f"{PANIC}fake\nhello\n{end}", MEMORY) is None
    assert find_panic(end, MEMORY) is None


def test_report_begins_with_the_oops_that_led_to_the_panic() -> None:
    text = f"hello\n{WARNING}more\n{OOPS}{PANIC}Fatal exception\n[    2.5] Kernel Offset: disabled"
    expected = f"{OOPS}{PANIC}Fatal exception\n[    2.5] Kernel Offset: disabled"
    assert report_of(text) == expected


def test_report_of_a_panic_without_an_oops_begins_with_the_panic() -> None:
    assert report_of(f"hello\n{PANIC}x\n[    2.5] CPU: 0\n") == f"{PANIC}x\n[    2.5] CPU: 0"


def test_report_of_a_machine_that_resets_during_an_oops_is_the_oops() -> None:
    assert report_of(f"hello\n{OOPS}") == OOPS.rstrip("\n")
    assert report_of("hello\n") == ""


@pytest.mark.parametrize("middle", [57, 58, 59, 60, 1000])
def test_report_has_at_most_60_lines_of_the_kernel(middle: int) -> None:
    first = OOPS.splitlines()[0]
    lines = report_of(f"{first}\n" + "[    2.4] x\n" * middle + f"{PANIC}y\n").split("\n")
    assert lines[0].startswith("[    2.40] BUG: ")
    assert lines[-1] == f"{PANIC}y"
    assert len(lines) == min(middle + 2, 60)
    assert any("lines are left out" in line for line in lines) is (middle + 2 > 60)


def test_text_of_the_error_has_the_file_of_the_console_and_the_report() -> None:
    error = find_panic(f"{PANIC}System is deadlocked on memory\n", MEMORY)
    assert error
    error.console = "/x.log"
    assert str(error) == (
        "the guest's kernel panicked: System is deadlocked on memory"
        " (the whole console is kept in /x.log)\n"
        "try: --memory 512M\n"
        f"{PANIC}System is deadlocked on memory"
    )


@pytest.mark.parametrize(
    "piece",
    ["-", "Kernel panic - not syncing: ", "[ ", "[    2.4", " ", "---[ end ", "Oops\n", "\n"],
)
def test_any_console_output_is_searched_in_linear_time(piece: str) -> None:
    text = piece * ((2 << 20) // len(piece))
    began = time.process_time()
    find_panic(text, MEMORY)
    assert time.process_time() - began < 5


def test_report_of_arm64_begins_with_the_address() -> None:
    first = "[    2.40] Unable to handle kernel NULL pointer dereference at virtual address 0\n"
    oops = f"{first}[    2.41] Internal error: Oops: 0000000096000044 [#1] SMP\n"
    assert report_of(f"[    1.0] usb\n{oops}{PANIC}Fatal exception\n").startswith(first)
