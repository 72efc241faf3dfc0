"""A guest whose kernel panics while a command runs: the report, and the exit status 255."""

import re
from pathlib import Path

import pytest

from initrd.host.vm import KernelPanic, Vm
from testbed import assets
from tests.boot.chrootvm import run

pytestmark = pytest.mark.boot
# Output that PID 1 of the guest has not copied to its port yet is lost by a panic.
CRASH = "echo out; sleep 1; echo c >/proc/sysrq-trigger; sleep 1000"


@pytest.mark.every_architecture
@pytest.mark.usefixtures("start")
def test_a_panic_is_reported_with_status_255_and_the_lines_of_the_kernel(tmp_path: Path) -> None:
    status, output, errors = run(assets.busybox_root(), "--", "sh", "-c", CRASH, folder=tmp_path)
    assert (status, output) == (255, "out\n")
    head, *lines = errors.splitlines()
    found = re.fullmatch(
        r"chrootvm: the guest's kernel panicked: sysrq triggered crash"
        r" \(the whole console is kept in (.*)\)",
        head,
    )
    assert found
    assert "Kernel panic - not syncing: sysrq triggered crash" in lines[0]
    assert any("call trace" in line.lower() for line in lines)
    assert len(lines) <= 60
    assert lines[-1] in Path(found[1]).read_text(encoding="utf-8")


def test_a_panic_is_an_error_of_the_python_interface(vm: Vm) -> None:
    with pytest.raises(KernelPanic, match="kernel panicked: sysrq triggered crash") as raised:
        vm.run("sh", "-c", CRASH)
    assert "Kernel panic - " in Path(raised.value.console).read_text(encoding="utf-8")
    assert "Call Trace" in raised.value.report


def test_a_command_that_prints_the_text_of_a_panic_has_its_own_status(vm: Vm) -> None:
    text = "Kernel panic - not syncing: fake"
    done = vm.run("sh", "-c", f"echo '{text}' | tee /dev/console /dev/kmsg; exit 7")
    assert (done.status, done.stdout, done.stderr) == (7, f"{text}\n", "")


@pytest.mark.usefixtures("start")
def test_a_command_that_prints_the_text_and_powers_off_is_no_panic(tmp_path: Path) -> None:
    script = "echo 'Kernel panic - not syncing: fake' >/dev/kmsg; poweroff -f; sleep 1000"
    words = (assets.busybox_root(), "--", "sh", "-c", script)
    status, _, errors = run(*words, folder=tmp_path)
    assert status == 125
    message = "the machine was switched off before the command ended"
    assert errors == f"chrootvm: the machine has ended: {message}\n"


def test_a_panic_before_the_command_has_started_is_a_failed_boot(tmp_path: Path) -> None:
    words = ("--append", "initrd.onfail=panic mount=nosuch initrd.timeout=1")
    status, _, errors = run(*words, assets.busybox_root(), "--", "true", folder=tmp_path)
    assert status == 125
    assert errors.startswith("chrootvm: the boot failed: ")
