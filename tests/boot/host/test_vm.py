"""The Python interface initrd.host.vm and the pytest fixture `vm`, with real machines."""

import gc
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from initrd.host import vm as interface
from initrd.host.system.hosterror import HostError
from initrd.host.vm import CommandFailed, Vm
from tests.boot.conftest import WARM_ONLY
from tests.boot.nested import run_nested

pytestmark = pytest.mark.boot


@pytest.fixture(autouse=True)
def unchanged_process(directory: str) -> Iterator[None]:
    """Assert that a test leaves no descriptors and files, and children and signals unchanged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", directory)
        gc.collect()  # descriptors of objects that earlier tests have left
        state, descriptors = process_state(), open_descriptors()
        yield
        assert process_state() == state
        assert open_descriptors() - descriptors == Counter()
        assert [name for name in os.listdir(directory) if name.startswith("chrootvm-")] == []


def open_descriptors() -> Counter[str]:
    """Return how many descriptors are open of each kind: `file`, or `socket` for `socket:[N]`."""
    kinds: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
        kinds["file" if path.startswith("/") else path.split(":")[0]] += 1
    return kinds


def process_state() -> tuple[object, ...]:
    """Return children, signal handlers and mask, and the working directory."""
    with open("/proc/thread-self/children", encoding="ascii") as file:
        children = file.read()
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return children, handlers, mask, os.getcwd()


def test_run_passes_its_arguments_to_the_command(vm_root: str, tmp_path: Path, start: str) -> None:
    (tmp_path / "file").write_text("shared\n")
    tmp_path.chmod(0o755)
    script = 'cat; echo "$1 $A" >&2; pwd; id -u; nproc; cat /run/mnt/s/file; kill -TERM $$'
    done = interface.run(
        vm_root,
        ["sh", "-c", script, "sh", b"any\xffbytes"],
        input=b"\0in\r\n",
        cwd="/tmp",
        user="12:34",
        env={"A": "b c"},
        cpus=2,
        memory="256M",
        mount_ro={"s": tmp_path},
        warm=start == "warm",
    )
    assert done.status == 128 + signal.SIGTERM
    assert done.stdout == b"\0in\r\n/tmp\n12\n2\nshared\n"
    assert done.stderr == b"any\xffbytes b c\n"


@WARM_ONLY
def test_run_redirects_the_streams_to_files(vm: Vm, tmp_path: Path) -> None:
    data = os.urandom(1_000_003)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as out:
        script = "cat; echo to nobody >&2"
        done = vm.run("sh", "-c", script, stdin=given, stdout=out, stderr=subprocess.DEVNULL)
    assert (done.status, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out").read_bytes() == data


@WARM_ONLY
def test_run_works_in_several_threads_at_once(vm: Vm) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda number: vm.run("echo", number), "abc"))
    assert [result.stdout for result in done] == ["a\n", "b\n", "c\n"]


@WARM_ONLY
def test_check_parameter_raises_command_failed_with_the_output(vm: Vm) -> None:
    with pytest.raises(CommandFailed, match=r"exit status 3\.\nit is gone$") as error:
        vm.run("sh", "-c", "echo so far; echo it is gone >&2; exit 3", check=True)
    assert (error.value.returncode, error.value.stdout) == (3, "so far\n")


@WARM_ONLY
def test_a_missing_command_gives_status_127_and_a_message(vm: Vm) -> None:
    done = vm.run("nosuch")
    assert done.status == 127
    assert done.stderr.startswith("chrootvm: cannot run nosuch: not found in PATH")


def test_timeout_parameter_raises_timeout_expired(vm: Vm) -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(subprocess.TimeoutExpired) as error:
            vm.run("sleep", "1000", timeout=3, stdin=reader)
    finally:
        os.close(reader)
        os.close(writer)
    assert error.value.timeout == 3


def test_a_failed_boot_raises_host_error(vm: Vm) -> None:
    with pytest.raises(HostError, match=r"no tag nosuch after 1 s.*console is kept in") as error:
        vm.run("true", append="mount=nosuch initrd.timeout=1")
    assert error.value.what == "the boot failed"


TEST_MODULE = """
import pytest

def test_the_kernel(vm):
    assert vm.run("uname", "-s").stdout == "Linux\\n"

def test_options(vm):
    memory_kb = int(vm.run("cat", "/proc/meminfo").stdout.split()[1])
    assert 200_000 < memory_kb < 307_200
    assert vm.run("touch", "/new", overlay=True).status == 0

def test_failed_command(vm):
    vm.run("sh", "-c", "echo broken >&2; false", check=True)
"""


def test_fixture_vm_uses_root_and_options_of_the_ini_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, vm_root: str
) -> None:
    pytester.makepyfile(TEST_MODULE)
    pytester.path.joinpath("system").symlink_to(vm_root)
    pytester.makeini("[pytest]\nvm_root = system\nvm_options = --memory 300M\n")
    result = run_nested(pytester, monkeypatch, "-W", "error")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["E *CommandFailed: *exit status 1.", "E *broken"])
    assert "initrd/host/vm.py" not in result.stdout.str()


def test_fixture_vm_uses_root_and_options_of_a_projects_fixtures(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, vm_root: str
) -> None:
    pytester.makeconftest(
        "import pytest\n"
        '@pytest.fixture(scope="session")\n'
        f"def vm_root(): return {vm_root!r}\n"
        '@pytest.fixture(scope="session")\n'
        'def vm_options(): return ["--env", "A=b"]\n'
    )
    pytester.makepyfile('def test_it(vm): assert vm.run("sh", "-c", "echo $A").stdout == "b\\n"')
    result = run_nested(pytester, monkeypatch)
    result.assert_outcomes(passed=1)
