"""The socket at which QEMU waits for gdb, and the command that is printed."""

import os
import shlex
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.host.machine import gdb
from initrd.host.system.hosterror import HostError


@pytest.fixture
def directory() -> Iterator[str]:
    """A directory with a short path: that of a UNIX socket is at most 107 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="gdb-", dir="/tmp") as path:
        yield path


@pytest.fixture
def runtime(directory: str) -> str:
    """A directory as XDG_RUNTIME_DIR is to be."""
    path = f"{directory}/runtime"
    os.mkdir(path, 0o700)
    return path


def test_socket_is_in_a_private_directory_that_ends_with_it(runtime: str) -> None:
    with gdb.listen(0, {"XDG_RUNTIME_DIR": runtime, "TMPDIR": "/nowhere"}) as waiting:
        folder = os.path.dirname(waiting.address)
        assert os.path.dirname(folder) == runtime
        assert os.stat(folder).st_mode & 0o7777 == 0o700
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(waiting.address)
    assert os.listdir(runtime) == []


def test_socket_that_is_gone_is_no_error(runtime: str) -> None:
    with gdb.listen(0, {"XDG_RUNTIME_DIR": runtime}) as waiting:
        os.unlink(waiting.address)
        os.rmdir(os.path.dirname(waiting.address))


def test_no_file_is_removed_where_the_owner_of_tmpdir_leads_to(directory: str) -> None:
    """The owner of TMPDIR can rename the directory, and put a link in its place."""
    other = Path(directory, "other")
    other.mkdir()
    (other / "gdb").write_text("a program")
    with gdb.listen(0, {"TMPDIR": directory}) as waiting:
        folder = os.path.dirname(waiting.address)
        os.rename(folder, f"{directory}/renamed")
        os.symlink(other, folder)
    assert (other / "gdb").read_text() == "a program"
    assert os.listdir(f"{directory}/renamed") == []


def test_directory_that_is_not_empty_in_the_place_of_the_own_one_is_left(directory: str) -> None:
    with gdb.listen(0, {"TMPDIR": directory}) as waiting:
        folder = os.path.dirname(waiting.address)
        os.rename(folder, f"{directory}/renamed")
        os.makedirs(f"{folder}/full")
    assert os.listdir(folder) == ["full"]


@pytest.mark.parametrize("flaw", ["mode", "link", "missing", "relative", "unset", "colon", "long"])
def test_runtime_directory_that_cannot_be_used_is_replaced_by_tmpdir(
    runtime: str, directory: str, flaw: str
) -> None:
    value = runtime
    if flaw == "mode":
        os.chmod(runtime, 0o755)
    elif flaw == "link":
        value = f"{directory}/link"
        os.symlink(runtime, value)
    elif flaw in ("colon", "long"):
        value = f"{directory}/{':' if flaw == 'colon' else 'x' * 90}"
        os.mkdir(value, 0o700)
    else:
        value = {"missing": f"{directory}/no", "relative": "."}.get(flaw, "")
    with gdb.listen(0, {"XDG_RUNTIME_DIR": value, "TMPDIR": directory}) as waiting:
        assert os.path.dirname(os.path.dirname(waiting.address)) == directory


def test_socket_is_in_tmp_where_the_path_of_tmpdir_is_too_long(tmp_path: Path) -> None:
    with gdb.listen(0, {"TMPDIR": str(tmp_path / ("x" * 90))}) as waiting:
        assert os.path.dirname(os.path.dirname(waiting.address)) == "/tmp"


def test_error_for_a_directory_that_cannot_be_made_names_it() -> None:
    with (
        pytest.raises(HostError, match=r"cannot make /nowhere/chrootvm-.*No such file"),
        gdb.listen(0, {"TMPDIR": "/nowhere"}),
    ):
        pass


def test_port_is_on_the_loopback_and_one_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(HostError, match=f"127.0.0.1:{port}: Address already in use"),
            gdb.listen(port, {}),
        ):
            pass
    with gdb.listen(port, {}) as waiting:
        assert waiting.listener.getsockname() == ("127.0.0.1", port)
        assert waiting.address == f"127.0.0.1:{port}"
    with gdb.listen(port, {}):  # again at once
        pass


@pytest.mark.parametrize("vmlinux", ["", "/a b/vmlinux"])
def test_command_is_quoted_for_a_shell(vmlinux: str) -> None:
    words = shlex.split(gdb.connect_command("/tmp/a b/gdb", vmlinux))
    assert words == ["gdb", *([vmlinux] if vmlinux else []), "-ex", "target remote /tmp/a b/gdb"]


def write(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return str(path)


def test_symbols_are_those_of_the_build_tree_of_the_image(tmp_path: Path) -> None:
    image = write(tmp_path / "linux/arch/x86/boot/bzImage")
    assert gdb.find_vmlinux(image, "6.1", str(tmp_path)) == ""
    vmlinux = write(tmp_path / "linux/vmlinux")
    assert gdb.find_vmlinux(image, "6.1", str(tmp_path)) == vmlinux
    assert gdb.find_vmlinux(write(tmp_path / "linux/a/b/boot/bzImage"), "", str(tmp_path)) == ""
    assert gdb.find_vmlinux(vmlinux, "", str(tmp_path)) == vmlinux


@pytest.mark.parametrize(
    "path", ["usr/lib/debug/boot/vmlinux-6.1", "usr/lib/debug/lib/modules/6.1/vmlinux"]
)
def test_symbols_of_an_installed_kernel_are_in_the_root(tmp_path: Path, path: str) -> None:
    image = write(tmp_path / "boot/vmlinuz-6.1")
    assert gdb.find_vmlinux(image, "6.1", str(tmp_path)) == ""
    vmlinux = write(tmp_path / path)
    assert gdb.find_vmlinux(image, "6.1", str(tmp_path)) == vmlinux
    assert gdb.find_vmlinux(write(tmp_path / "boot/vmlinuz-6.2"), "6.2", str(tmp_path)) == ""
