"""Directories with any name, and read-only ones that stay as they are whatever a guest does."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import chrootvm, run

pytestmark = pytest.mark.boot

FAMILIES = {"c": assets.c_virtiofsd, "rust": assets.rust_virtiofsd}
NAMES = ["a space", "a,comma,,two", "a:colon", "a:/destination", "-dash", "quote'\"", "ü\nline"]

# What a guest's root can do to a share at $1: everything must fail, and change nothing.
ATTACK = """
mount -o remount,rw $1 && echo remounted
echo changed >$1/file; echo new >$1/new; rm $1/file; mv $1/file $1/moved; mkdir $1/folder
chmod 0777 $1/file; chown 1:1 $1/file; ln $1/file $1/hard; ln -s file $1/soft; mknod $1/node c 1 3
touch -t 200001010000 $1/file; truncate -s 0 $1/file; rmdir $1/empty; mount -o bind,rw $1 /mnt
echo changed >/mnt/file; echo appended >>$1/file
cat $1/file
poweroff -f
""".strip()

# capabilities(7), "File capability extended attribute versioning": version 2, CAP_NET_RAW.
CAPABLE = struct.pack("<5I", 0x0200_0000, 1 << 13, 0, 0, 0)
USER = 1000

# Looks at each directory, and again when the host has changed it. What the guest may remember of
# attributes and names is a second old at most; the guest's own clock says when that is over.
LOOK = """
look() {
    for top in "$@"; do
        echo "$top" $(cat $top/same $top/longer $top/gone $top/new 2>/dev/null) $(ls $top)
    done
}
look "$@"; echo ready; read -r line; sleep 2; look "$@"
""".strip()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the options that choose a virtiofsd."""
    return ("--virtiofsd", FAMILIES[request.param]())


def state(top: Path) -> dict[str, tuple[object, ...]]:
    """Return everything that can be seen of a directory."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        it = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        times = (it.st_mtime_ns, it.st_ctime_ns)
        found[str(path)] = (it.st_mode, it.st_uid, it.st_gid, it.st_size, *times, content)
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a file."""
    folder = tmp_path / "data"
    (folder / "empty").mkdir(parents=True)
    (folder / "file").write_text("untouched\n")
    return folder


@pytest.mark.parametrize("where", ["share", "root"])
def test_a_read_only_share_is_so_on_the_host(
    family: tuple[str, str], where: str, data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    assets.make_busybox_root(str(root))
    shutil.copytree(data, root / "data")
    before = (state(data), state(root / "data"))
    kernel = assets.kernel("bookworm")
    options = ("--kernel", kernel.image, "--modules", kernel.modules, "--mount-ro", "d", str(data))
    target = "/run/mnt/d" if where == "share" else "/data"
    script = ATTACK if where == "share" else "mount -o remount,rw /\n" + ATTACK
    words = (*family, *options, str(root), "busybox", "sh", "-c", script.replace("\n", ";"), "sh")
    status, output, _ = run(*words, target, folder=tmp_path)
    assert status == 0
    assert "untouched" in output
    assert (state(data), state(root / "data")) == before


def test_a_file_loses_its_privileges_when_a_user_writes_to_it(
    family: tuple[str, str], data: Path, tmp_path: Path
) -> None:
    names = [f"{how}{what}" for how in ("", "cut ", "emptied ") for what in ("setuid", "capable")]
    for name in names:
        path = data / name
        path.write_text("content")
        os.chown(path, USER, USER)
        path.chmod(0o4755 if "setuid" in name else 0o755)
        if "capable" in name:
            os.setxattr(path, "security.capability", CAPABLE)
    script = (
        "cd /run/mnt/d; for f in setuid capable; do "
        'echo more >>$f; truncate -s 1 "cut $f"; : >"emptied $f"; done'
    )
    words = ("--mount", "d", str(data), "--user", f"{USER}:{USER}", assets.busybox_root())
    assert run(*family, *words, "--", "sh", "-c", script, folder=tmp_path) == (0, "", "")
    contents = {"cut": "c", "emptied": ""}
    for name in names:
        assert (data / name).read_text() == contents.get(name.split()[0], "contentmore\n")
        assert (data / name).stat().st_mode & 0o7777 == 0o755
        assert os.listxattr(data / name) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_may_have_any_name(family: tuple[str, str], name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "in").write_text("what was there")
    script = "cat /run/mnt/d/in /tmp/r/in; echo done >/run/mnt/d/out; poweroff -f"
    options = ("--mount", "d", str(folder), "--mount-ro", "r", f"{folder}:/tmp/r")
    words = (*family, *options, assets.busybox_root(), "busybox", "sh", "-c")
    status, output, errors = run(*words, f"mkdir -p /tmp/r; {script}", folder=tmp_path)
    assert (status, errors) == (0, "")
    assert "what was there" in output
    assert (folder / "out").read_text() == "done\n"


@pytest.mark.parametrize("name", ["root, with: it all"])
def test_so_may_the_root(family: tuple[str, str], name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    assets.make_busybox_root(str(root))
    assets.add_kernel(assets.kernel("bookworm"), str(root))
    words = (*family, "--rw", str(root), "busybox", "sh", "-c", "echo hi >/new; poweroff -f")
    assert run(*words, folder=tmp_path)[0] == 0
    assert (root / "new").read_text() == "hi\n"


def test_a_relative_root_that_looks_like_an_option(tmp_path: Path) -> None:
    os.symlink(assets.busybox_root(), tmp_path / "--rw")
    words = ("--", os.path.relpath(tmp_path / "--rw"), "busybox", "poweroff", "-f")
    assert run(*words, folder=tmp_path)[0] == 0


def change(top: Path) -> None:
    """Change a directory as somebody on the host may, below a guest that has seen it."""
    (top / "same").write_text("two")
    (top / "longer").write_text(", longer than before")
    (top / "gone").unlink()
    (top / "new").write_text(", new")


def test_what_changes_on_the_host_is_seen_by_the_guest(
    family: tuple[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    assets.make_busybox_root(str(root))
    tops = [root / "data", tmp_path / "ro", tmp_path / "rw"]
    for top in tops:
        top.mkdir()
        for name, content in (("same", "one"), ("longer", ", short"), ("gone", ", gone")):
            (top / name).write_text(content)
    kernel = assets.kernel("bookworm")
    options = ("--kernel", kernel.image, "--modules", kernel.modules)
    shares = ("--mount-ro", "ro", str(tops[1]), "--mount", "rw", str(tops[2]))
    seen = ("/data", "/run/mnt/ro", "/run/mnt/rw")
    command = ("--", "sh", "-c", LOOK, "sh", *seen)
    words = (*family, *options, *shares, str(root), *command)
    with chrootvm(*words, folder=tmp_path, stdin=subprocess.PIPE) as session:
        session.expect("ready\n")
        for top in tops:
            change(top)
        assert session.process.stdin
        session.process.stdin.write(b"go on\n")
        session.process.stdin.flush()
        status, output, errors = session.finish()
    before = [f"{top} one, short, gone gone longer same" for top in seen]
    after = [f"{top} two, longer than before, new longer new same" for top in seen]
    assert (status, errors) == (0, "")
    assert output.splitlines() == [*before, "ready", *after]
