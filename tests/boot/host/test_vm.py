"""The Python interface: a command in a directory's machine, as if by subprocess.run."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from initrd.errors import HostError
from initrd.host import vm as interface
from initrd.host.vm import CommandFailed, Vm
from tests.boot.images import TOP

pytestmark = pytest.mark.boot


@pytest.fixture(autouse=True)
def nothing_changes() -> Iterator[None]:
    """A call leaves this process as it was: descriptors, children, signals, threads."""
    before = state()
    yield
    assert state() == before


def state() -> tuple[object, ...]:
    with open("/proc/thread-self/children", encoding="ascii") as file:
        children = file.read()
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    names = [name for name in os.listdir("/tmp") if name.startswith("chrootvm-")]
    return len(os.listdir("/proc/self/fd")), children, handlers, mask, os.getcwd(), names


def test_a_command_is_run_with_all_that_it_was_given(vm_root: str, tmp_path: Path) -> None:
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
    )
    assert done.status == 128 + signal.SIGTERM
    assert done.stdout == b"\0in\r\n/tmp\n12\n2\nshared\n"
    assert done.stderr == b"any\xffbytes b c\n"


def test_files_take_the_place_of_what_is_returned(vm: Vm, tmp_path: Path) -> None:
    data = os.urandom(1_000_003)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as out:
        script = "cat; echo to nobody >&2"
        done = vm.run("sh", "-c", script, stdin=given, stdout=out, stderr=subprocess.DEVNULL)
    assert (done.status, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out").read_bytes() == data


def test_many_threads_may_do_it_at_once(vm: Vm) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda number: vm.run("echo", number), "abc"))
    assert [one.stdout for one in done] == ["a\n", "b\n", "c\n"]


def test_a_status_can_be_an_error(vm: Vm) -> None:
    with pytest.raises(CommandFailed, match=r"exit status 3\.\nit is gone$") as error:
        vm.run("sh", "-c", "echo so far; echo it is gone >&2; exit 3", check=True)
    assert (error.value.returncode, error.value.stdout) == (3, "so far\n")


def test_a_command_that_is_not_there_says_so(vm: Vm) -> None:
    done = vm.run("nosuch")
    assert done.status == 127
    assert done.stderr.startswith("chrootvm: cannot run nosuch: not found in PATH")


def test_time_can_run_out(vm: Vm) -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(subprocess.TimeoutExpired) as error:
            vm.run("sleep", "1000", timeout=3, stdin=reader)
    finally:
        os.close(reader)
        os.close(writer)
    assert error.value.timeout == 3


def test_a_boot_that_failed_is_an_error_of_its_own(vm: Vm) -> None:
    with pytest.raises(HostError, match=r"no tag nosuch after 1 s.*console is kept in") as error:
        vm.run("true", append="mount=nosuch initrd.timeout=1")
    assert error.value.what == "the boot failed"


PROJECT = """
import pytest

def test_the_kernel(vm):
    assert vm.run("uname", "-s").stdout == "Linux\\n"

def test_options(vm):
    assert vm.run("nproc").stdout == "2\\n"
    assert vm.run("touch", "/new", overlay=True).status == 0

def test_what_fails_is_shown(vm):
    vm.run("sh", "-c", "echo broken >&2; false", check=True)
"""


def test_a_project_has_a_fixture(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, vm_root: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", TOP)
    pytester.makepyfile(PROJECT)
    pytester.path.joinpath("system").symlink_to(vm_root)
    pytester.makeini("[pytest]\nvm_root = system\nvm_options = --cpus 2 --memory 512M\n")
    ran = pytester.runpytest_subprocess("-p", "initrd.host.pytest_plugin", "-W", "error")
    ran.assert_outcomes(passed=2, failed=1)
    ran.stdout.fnmatch_lines(["E *CommandFailed: *exit status 1.", "E *broken"])
    assert "initrd/host/vm.py" not in ran.stdout.str()


def test_a_project_may_choose_its_directory_and_options_itself(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, vm_root: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", TOP)
    pytester.makeconftest(
        "import pytest\n"
        '@pytest.fixture(scope="session")\n'
        f"def vm_root(): return {vm_root!r}\n"
        '@pytest.fixture(scope="session")\n'
        'def vm_options(): return ["--env", "A=b"]\n'
    )
    pytester.makepyfile('def test_it(vm): assert vm.run("sh", "-c", "echo $A").stdout == "b\\n"')
    ran = pytester.runpytest_subprocess("-p", "initrd.host.pytest_plugin")
    ran.assert_outcomes(passed=1)
