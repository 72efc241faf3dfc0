"""chrootvm ROOTFS -- COMMAND: streams, exit status, signals and options."""

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import chrootvm, run
from tests.boot.conftest import WARM_ONLY
from tests.boot.machine import has_long_queues

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("start")]


def run_command(folder: Path, *words: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    return run(*options, assets.busybox_root(), "--", *words, folder=folder)


@WARM_ONLY
@pytest.mark.every_architecture
@pytest.mark.parametrize(
    ("words", "status"),
    [
        pytest.param(("sh", "-c", "exit 255"), 255, id="the largest status"),
        pytest.param(("sh", "-c", "kill -KILL $$"), 137, id="death by a signal"),
        pytest.param(("no-such-command",), 127, id="not found"),
        pytest.param(("/etc",), 126, id="not executable"),
    ],
)
def test_the_exit_status_is_that_of_the_command(
    words: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    assert run_command(tmp_path, *words)[0] == status


def smallest_memory() -> str:
    """Return the smallest `--memory` that docs/performance.md promises for this QEMU."""
    text = Path("docs/performance.md").read_text(encoding="utf-8")
    columns = re.findall(r"^\| smallest `--memory`.* \| (\d+M) \| (\d+M) \|$", text, re.MULTILINE)
    return str(columns[0][has_long_queues()])


def test_the_smallest_documented_memory_boots(tmp_path: Path) -> None:
    options = ("--memory", smallest_memory())
    assert run_command(tmp_path, "true", options=options) == (0, "", "")


@WARM_ONLY
@pytest.mark.every_architecture
def test_the_output_streams_hold_only_the_commands_output(tmp_path: Path) -> None:
    words = ("sh", "-c", "echo to you; echo and you >&2; printf 'no newline\\r\\n\\0'")
    status, output, errors = run_command(tmp_path, *words)
    assert (status, output, errors) == (0, "to you\nno newline\n\0", "and you\n")


@WARM_ONLY
def test_arguments_of_any_bytes_reach_the_command(tmp_path: Path) -> None:
    words = ("a b", "", '"quoted"', "--", "line\nbreak", "$(no)", "\udcff", "x" * 10000)
    script = 'printf "%s|" "$@"; exit $#'
    status, output, _ = run_command(tmp_path, "sh", "-c", script, "sh", *words)
    assert output.encode() == "|".join((*words, "")).encode(errors="replace").replace(
        b"?", "\ufffd".encode()
    )
    assert status == len(words)


@pytest.mark.every_architecture
def test_env_chdir_and_user_options_apply_to_the_command(tmp_path: Path) -> None:
    options = ("--env", "A=b c", "--env", "TERM", "--chdir", "/tmp", "--user", "12:34")
    words = ("sh", "-c", 'echo "$A-$HOME"; pwd; id -u; id -g; env | grep -c CHROOTVM_TEST')
    _, output, _ = run_command(tmp_path, *words, options=options)
    assert output == "b c-/\n/tmp\n12\n34\n0\n"


@pytest.mark.parametrize(
    ("options", "is_random"),
    [pytest.param((), False, id="by default"), pytest.param(("--kaslr",), True, id="with --kaslr")],
)
def test_only_with_kaslr_the_image_chooses_a_random_address(
    options: tuple[str, ...], tmp_path: Path, *, is_random: bool
) -> None:
    # The random address may be the usual one, so the test does not compare addresses. The code that
    # decompresses an image sets KASLR_FLAG in loadflags: Documentation/arch/x86/boot.rst.
    words = ("xxd", "-s", f"{0x211}", "-l", "1", "-p", "/sys/kernel/boot_params/data")
    status, output, errors = run_command(tmp_path, *words, options=options)
    assert (status, errors) == (0, "")
    assert bool(int(output, 16) & 2) == is_random


@pytest.mark.every_architecture
def test_standard_input_and_output_are_complete(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "input").write_bytes(data)
    words = (assets.busybox_root(), "--", "sh", "-c", "tee /dev/stderr")
    names = {"stdin": "input", "stdout": "output", "stderr": "errors"}
    with ExitStack() as stack:
        files = {
            stream: stack.enter_context(open(tmp_path / name, "ab+"))
            for stream, name in names.items()
        }
        files["stdin"].seek(0)
        streams = {stream: file.fileno() for stream, file in files.items()}
        session = stack.enter_context(chrootvm(*words, folder=tmp_path, **streams))
        assert session.finish()[0] == 0
    for name in names.values():
        content = (tmp_path / name).read_bytes()
        assert hashlib.sha256(content).digest() == hashlib.sha256(data).digest()


@WARM_ONLY
def test_closing_standard_output_kills_the_command_with_sigpipe(tmp_path: Path) -> None:
    words = (assets.busybox_root(), "--", "cat", "/dev/urandom")
    with chrootvm(*words, folder=tmp_path) as session:
        assert session.process.stdout
        assert len(session.process.stdout.read(1_000_000)) == 1_000_000
        session.process.stdout.close()
        assert session.process.wait(60) == 128 + signal.SIGPIPE
        assert session.leftovers() == []


@WARM_ONLY
def test_a_command_waits_while_its_output_is_not_read(tmp_path: Path) -> None:
    script = "dd if=/dev/zero bs=1M count=30 2>/dev/null; echo done >&2"
    with chrootvm(assets.busybox_root(), "--", "sh", "-c", script, folder=tmp_path) as session:
        assert session.process.stdout
        os.read(session.process.stdout.fileno(), 1)
        time.sleep(2)
        assert session.process.poll() is None
        status, output, errors = session.finish()
        assert (status, len(output), errors) == (0, 30 * (1 << 20) - 1, "done\n")


@WARM_ONLY
def test_a_command_need_not_read_its_standard_input(tmp_path: Path) -> None:
    with chrootvm(
        assets.busybox_root(), "--", "true", folder=tmp_path, stdin=subprocess.PIPE
    ) as session:
        assert session.finish()[0] == 0


@WARM_ONLY
@pytest.mark.every_architecture
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_the_command(number: signal.Signals, tmp_path: Path) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got it; exit 9' {name}; echo ready; while :; do sleep 0.1; done"
    with chrootvm(assets.busybox_root(), "--", "sh", "-c", script, folder=tmp_path) as session:
        session.expect("ready")
        session.process.send_signal(number)
        status, output, _ = session.finish()
        assert (status, output) == (9, "ready\ngot it\n")
        assert session.leftovers() == []


@WARM_ONLY
def test_the_third_sigint_ends_a_command_that_ignores_it(tmp_path: Path) -> None:
    script = "trap '' INT; echo ready; while :; do sleep 0.1; done"
    with chrootvm(assets.busybox_root(), "--", "sh", "-c", script, folder=tmp_path) as session:
        session.expect("ready")
        for _ in range(3):
            session.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert session.finish()[0] == -signal.SIGINT
        assert session.leftovers() == []


@WARM_ONLY
def test_timeout_option_ends_the_command_with_status_124(tmp_path: Path) -> None:
    status, _, errors = run_command(tmp_path, "sleep", "1000", options=("--timeout", "10"))
    assert (status, errors) == (
        124,
        "chrootvm: the command still runs after 10 s; ending it\n",
    )


@WARM_ONLY
def test_a_background_process_does_not_keep_the_machine_running(tmp_path: Path) -> None:
    status, output, _ = run_command(tmp_path, "sh", "-c", "sleep 1000 & echo started; exit 4")
    assert (status, output) == (4, "started\n")


def test_files_written_to_a_share_are_complete_on_the_host(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    script = "dd if=/dev/urandom of=/run/mnt/s/file bs=1M count=20; sync; sha256sum <$1"
    words = ("sh", "-c", script.replace("$1", "/run/mnt/s/file"))
    _, output, _ = run_command(tmp_path, *words, options=("--mount", "s", str(share)))
    assert output.split()[0] == hashlib.sha256((share / "file").read_bytes()).hexdigest()


def test_cpus_option_gives_two_processors_with_the_smallest_memory(tmp_path: Path) -> None:
    options = ("--cpus", "2", "--memory", smallest_memory())
    assert run_command(tmp_path, "nproc", options=options)[1:] == ("2\n", "")


@pytest.mark.every_architecture
def test_a_failed_boot_prints_the_reason_and_the_path_of_the_log(tmp_path: Path) -> None:
    options = ("--append", "mount=nosuch initrd.timeout=1")
    status, output, errors = run_command(tmp_path, "true", options=options)
    assert (status, output) == (125, "")
    assert "nosuch" in errors
    assert "initrd: boot failed" in Path(errors.split("is kept in ")[1].split(")")[0]).read_text()


def test_verbose_option_prints_the_console_and_the_commands(tmp_path: Path, start: str) -> None:
    _, output, errors = run_command(tmp_path, "echo", "hi", options=("--verbose",))
    assert output == "hi\n"
    assert "virtiofsd" in errors
    # A machine of a template does not boot: its console begins where that of the template ended.
    assert ("Linux version" in errors) == (start == "cold")
    assert "virtiofs" in errors.partition("virtio")[2]


def test_report_option_writes_the_duration_of_each_phase(tmp_path: Path, start: str) -> None:
    files = [tmp_path / name for name in ("report.json", "report.svg")]
    options = tuple(word for file in files for word in ("--report", str(file)))
    assert run_command(tmp_path, "cat", "/proc/sys/kernel/printk", options=options)[0] == 0
    report = json.loads(files[0].read_text())
    names = [phase["name"] for phase in report["phases"]]
    assert names[:2] == ["find files, make the image", "start the programs"]
    if start == "cold":
        assert names[2:5] == ["QEMU and its firmware", "the kernel", "start Python"]
    else:
        template = ["make a template", "load the template", "continue from the template"]
        assert names[2:5] == template
    assert names[-2:] == ["command", "power off"]
    assert any(name.startswith("load module") for name in names) == (start == "cold")
    assert "mount rootfs (virtiofs) on /sysroot (ro)" in names
    assert report["about"]["accelerator"] in ("kvm", "tcg")
    assert all(phase["ms"] >= 0 for phase in report["phases"])
    assert report["total_ms"] >= sum(phase["ms"] for phase in report["phases"]) * 0.99
    assert ("free the initramfs" in files[1].read_text()) == (start == "cold")
