"""Error messages and advice for failed boots, exhausted resources and broken standard streams."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from initrd.host import vm as interface
from initrd.host.system.hosterror import HostError
from initrd.host.vm import Vm
from testbed import assets
from tests.boot.chrootvm import COMMAND, DEADLINE, chrootvm, run
from tests.boot.conftest import WARM_ONLY

pytestmark = pytest.mark.boot


WARM = pytest.mark.parametrize(
    "warm", [pytest.param(False, id="cold"), pytest.param(True, id="warm")]
)


def failure_message(root: Path | str, **options: object) -> str:
    """Return the message of the HostError that `vm.run` raises with these options."""
    with pytest.raises(HostError) as error:
        interface.run(root, "true", **options)
    return str(error.value)


@WARM
def test_a_kernel_without_its_modules_is_reported(tmp_path: Path, *, warm: bool) -> None:
    root = tmp_path / "root"
    assets.make_busybox_root(str(root))
    kernel = assets.kernel("bookworm").image
    message = failure_message(root, kernel=kernel, append="initrd.timeout=1", warm=warm)
    assert "no module virtio_pci in the image" in message
    assert message.endswith(f"\ntry: --modules DIR, the lib/modules/VERSION of {kernel}")
    log = Path(message.split("is kept in ")[1].split(")")[0]).read_text(encoding="utf-8")
    assert "initrd: boot failed: " in log


@WARM
def test_a_damaged_kernel_is_reported(vm_root: str, tmp_path: Path, *, warm: bool) -> None:
    whole = Path(assets.kernel("bookworm").image).read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    message = failure_message(vm_root, kernel=tmp_path / "half", warm=warm)
    assert message.endswith("half is damaged, or not for this machine")
    (tmp_path / "none").write_bytes(b"x" * 100000)
    assert "qemu" in failure_message(vm_root, kernel=tmp_path / "none", warm=warm)


@pytest.mark.usefixtures("attempted_start")
def test_out_of_memory_at_boot_is_reported_with_a_larger_size(tmp_path: Path) -> None:
    words = ("--memory", "48M,force", assets.busybox_root(), "--", "true")
    status, _, errors = run(*words, folder=tmp_path)
    assert status == 125
    assert errors.startswith("chrootvm: the boot failed: out of memory at 48M: ")
    assert "try: --memory 96M" in errors


def test_a_command_killed_for_lack_of_memory_is_reported(vm: Vm) -> None:
    done = vm.run("tail", "/dev/zero", memory="192M")
    assert done.status == 128 + signal.SIGKILL
    assert done.stderr == (
        "chrootvm: the guest ran out of memory at 192M and killed tail; try --memory 384M\n"
    )


@pytest.mark.usefixtures("start")
def test_a_terminated_qemu_is_reported_as_a_machine_switched_off(tmp_path: Path) -> None:
    words = (assets.busybox_root(), "--", "sh", "-c", "echo up; sleep 1000")
    with chrootvm(*words, folder=tmp_path) as session:
        session.expect("up")
        os.kill(session.find_pid("qemu-system"), signal.SIGTERM)
        status, _, errors = session.finish()
    message = "the machine was switched off before the command ended"
    assert (status, errors) == (125, f"chrootvm: the machine has ended: {message}\n")


def run_shell(script: str) -> tuple[int, str, str]:
    """Run a shell script with chrootvm as `$@` and the root as `$R`."""
    words = ["sh", "-c", script, "sh", *COMMAND]
    environment = {**os.environ, "R": assets.busybox_root()}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=DEADLINE, check=False, env=environment
    )
    return done.returncode, done.stdout, done.stderr


@WARM_ONLY
@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--chdir=/nope", "chrootvm: cannot enter the directory /nope: No such file or directory"),
        ("--user=eve", "chrootvm: cannot run the command as eve: there is no user eve in"),
    ],
)
def test_a_missing_directory_or_user_is_reported_without_the_console(
    option: str, message: str
) -> None:
    status, out, errors = run_shell(f'"$@" {option} $R -- true')
    assert (status, out) == (125, "")
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert "console" not in errors


@pytest.mark.usefixtures("attempted_start")
def test_a_low_limit_of_open_files_is_reported_without_a_traceback() -> None:
    for limit in range(10, 26, 4):
        status, out, errors = run_shell(f'ulimit -n {limit}; "$@" $R -- true')
        assert (status, out) == (125, "")
        assert errors.startswith("chrootvm: cannot ")
        # The virtiofsd in Rust is not started when the limit is too low for it.
        assert re.search("Too many open files|only .* files may be open", errors)
        assert "Traceback" not in errors


@WARM_ONLY
@pytest.mark.usefixtures("start")
def test_chrootvm_works_with_closed_standard_streams() -> None:
    script = "echo out; cat; echo err >&2; exit 3"
    assert run_shell(f'"$@" $R -- sh -c "{script}" <&-') == (3, "out\n", "err\n")
    assert run_shell(f'"$@" $R -- sh -c "{script}" </dev/null >&- 2>&-') == (3, "", "")
    assert run_shell('"$@" /nowhere -- true 2>&- >&-')[0] == 125


@WARM_ONLY
@pytest.mark.usefixtures("start")
def test_a_failed_write_to_standard_output_is_reported() -> None:
    full = "cannot write to standard output: No space left on device"
    for words in ("--help", "--dry-run $R -- true", "--doctor $R"):
        assert run_shell(f'"$@" {words} >/dev/full') == (125, "", f"chrootvm: {full}\n")
    assert run_shell('{ "$@" --help; echo $? >&2; } | true')[2] == f"{128 + signal.SIGPIPE}\n"
    status, _, errors = run_shell('"$@" $R -- sh -c "while echo hi; do :; done" >/dev/full')
    assert status == 128 + signal.SIGPIPE
    assert errors == "chrootvm: cannot write stdout: No space left on device\n"
    status, _, errors = run_shell('"$@" $R -- echo hi >/dev/full')
    assert (status, errors.count("No space left on device")) == (125, 2)


@WARM_ONLY
@pytest.mark.usefixtures("start")
def test_a_signal_ignored_by_the_caller_stays_ignored(tmp_path: Path) -> None:
    script = "echo up; read word; echo $word"
    reader, writer = os.pipe()
    with signal_ignored(signal.SIGINT):
        started = chrootvm(
            assets.busybox_root(), "--", "sh", "-c", script, folder=tmp_path, stdin=reader
        )
        with started as session:
            session.expect("up")
            for _ in range(3):
                session.process.send_signal(signal.SIGINT)
            os.write(writer, b"still here\n")
            assert session.finish() == (0, "up\nstill here\n", "")
    os.close(reader)
    os.close(writer)


@contextmanager
def signal_ignored(number: int) -> Iterator[None]:
    """Ignore a signal in this process, and so in its children, until the block ends."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
