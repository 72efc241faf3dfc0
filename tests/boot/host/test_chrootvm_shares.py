"""Shared directories: names, read-only shares, privilege bits, and changes made on the host."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import COMMAND, DEADLINE, chrootvm, run
from tests.boot.conftest import WARM_ONLY

pytestmark = pytest.mark.boot

FAMILIES = {"c": assets.c_virtiofsd, "rust": assets.rust_virtiofsd}
NAMES = ["a space", "a,comma,,two", "a:colon", "a:/destination", "-dash", "quote'\"", "ü\nline"]

CONTAINER_CAPABILITIES = (
    "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,"
    "+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap"
)

# Attempts of the guest's root user to change the read-only directory $1. None may have an effect.
WRITE_ATTEMPTS = """
mount -o remount,rw $1 && echo remounted
echo changed >$1/file; echo new >$1/new; rm $1/file; mv $1/file $1/moved; mkdir $1/folder
chmod 0777 $1/file; chown 1:1 $1/file; ln $1/file $1/hard; ln -s file $1/soft; mknod $1/node c 1 3
touch -t 200001010000 $1/file; truncate -s 0 $1/file; rmdir $1/empty; mount -o bind,rw $1 /mnt
echo changed >/mnt/file; echo appended >>$1/file
cat $1/file; umount /mnt
""".strip()

# capabilities(7), "File capability extended attribute versioning": version 2, CAP_NET_RAW.
NET_RAW_CAPABILITY = struct.pack("<5I", 0x0200_0000, 1 << 13, 0, 0, 0)
USER = 1000
EMPTIED = "a file that a user of the guest empties by opening it keeps its setuid bit"

# List each directory, wait for a line on standard input, and list each directory again. The guest
# caches attributes and names for at most one second of its own clock; therefore the guest sleeps.
LIST_TWICE = """
list() {
    for top in "$@"; do
        echo "$top" $(cat $top/same $top/longer $top/gone $top/new 2>/dev/null) $(ls $top)
    done
}
list "$@"; echo ready; read -r line; sleep 2; list "$@"
""".strip()


@pytest.fixture(params=FAMILIES)
def virtiofsd_options(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the options that select a virtiofsd."""
    return ("--virtiofsd", FAMILIES[request.param]())


def read_tree(directory: Path) -> dict[str, tuple[object, ...]]:
    """Return the attributes and contents of a directory and of all files below it, by path."""
    tree: dict[str, tuple[object, ...]] = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        attributes = (status.st_mode, status.st_uid, status.st_gid, status.st_size)
        tree[str(path)] = (*attributes, status.st_mtime_ns, status.st_ctime_ns, content)
    return tree


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a file and an empty directory."""
    folder = tmp_path / "data"
    (folder / "empty").mkdir(parents=True)
    (folder / "file").write_text("untouched\n")
    return folder


def test_a_guest_cannot_change_a_read_only_share_or_root(
    virtiofsd_options: tuple[str, str], data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    assets.make_busybox_root(str(root))
    shutil.copytree(data, root / "data")
    before = (read_tree(data), read_tree(root / "data"))
    kernel = assets.kernel("bookworm")
    options = ("--kernel", kernel.image, "--modules", kernel.modules, "--mount-ro", "d", str(data))
    attempts = WRITE_ATTEMPTS.replace("\n", "; ")
    places = "/run/mnt/d /data"
    script = f"mount -o remount,rw /; for d in {places}; do set $d; {attempts}; done; poweroff -f"
    words = (*virtiofsd_options, *options, str(root), "busybox", "sh", "-c", script)
    status, output, _ = run(*words, folder=tmp_path)
    assert status == 0
    assert output.count("untouched") == 2
    assert (read_tree(data), read_tree(root / "data")) == before


@WARM_ONLY
@pytest.mark.usefixtures("start")
def test_a_write_by_a_user_clears_setuid_and_capabilities_of_a_file(
    virtiofsd_options: tuple[str, str], data: Path, tmp_path: Path
) -> None:
    names = [
        f"{change}{privilege}"
        for change in ("", "cut ", "emptied ")
        for privilege in ("setuid", "capable")
    ]
    for name in names:
        path = data / name
        path.write_text("content")
        os.chown(path, USER, USER)
        path.chmod(0o4755 if "setuid" in name else 0o755)
        if "capable" in name:
            os.setxattr(path, "security.capability", NET_RAW_CAPABILITY)
    script = (
        "cd /run/mnt/d; for f in setuid capable; do "
        'echo more >>$f; truncate -s 1 "cut $f"; : >"emptied $f"; done'
    )
    words = ("--mount", "d", str(data), "--user", f"{USER}:{USER}", assets.busybox_root())
    assert run(*virtiofsd_options, *words, "--", "sh", "-c", script, folder=tmp_path) == (0, "", "")
    contents = {"cut": "c", "emptied": ""}
    for name in names:
        assert (data / name).read_text() == contents.get(name.split()[0], "contentmore\n")
        assert (data / name).stat().st_mode & 0o7777 == 0o755
        assert os.listxattr(data / name) == []


def test_a_kernel_without_killpriv_writes_to_a_share_below_an_overlay(
    virtiofsd_options: tuple[str, str], data: Path, tmp_path: Path
) -> None:
    kernel = assets.kernel("bullseye")
    modes = {"grown": 0o755, "cut": 0o755, "emptied": 0o4755}
    for name in modes:
        (data / name).write_text("content")
        os.chown(data / name, USER, USER)
        (data / name).chmod(0o4755)
    script = (
        "uname -r; grep -c ' / overlay ' /proc/mounts; cd /run/mnt/d; "
        "echo more >>grown; truncate -s 1 cut; : >emptied"
    )
    options = ("--kernel", kernel.image, "--modules", kernel.modules, "--overlay")
    user = ("--mount", "d", str(data), "--user", f"{USER}:{USER}")
    words = (*virtiofsd_options, *options, *user, assets.busybox_root())
    doctor = run("--doctor", *words, "--", "sh", folder=tmp_path)
    assert f"\nwarning  setuid bits  {EMPTIED}: the guest's kernel is {kernel.version}" in doctor[1]
    done = run(*words, "--", "sh", "-c", script, folder=tmp_path)
    assert done == (0, f"{kernel.version}\n1\n", "")
    assert (data / "grown").read_text() == "contentmore\n"
    assert {name: (data / name).stat().st_mode & 0o7777 for name in modes} == modes


@pytest.mark.parametrize("family", FAMILIES)
def test_root_in_a_container_has_shares_without_namespaces(
    family: str, data: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shares = ("--mount", "s", str(shared), "--mount-ro", "d", str(data), assets.busybox_root())
    script = "cd /run/mnt; echo new >s/new; mount -o remount,rw d; echo changed >d/file; cat d/file"
    words = ("--virtiofsd", FAMILIES[family](), *shares, "--", "sh", "-c", script)
    if family == "rust":
        done = run_in_container(*words)
        assert (done.returncode, done.stdout) == (0, "untouched\n"), done.stderr
        assert done.stderr == "sh: can't create d/file: Read-only file system\n"
    else:
        refused = run_in_container(*words)
        what = f"chrootvm: cannot share {assets.busybox_root()} read-only: "
        assert (refused.returncode, refused.stdout) == (125, "")
        assert refused.stderr.startswith(what)
        assert "; or --unprotected-read-only, if the guest's root may write there" in refused.stderr
        done = run_in_container("--unprotected-read-only", *words)
        assert (done.returncode, done.stdout) == (0, "changed\n"), done.stderr
        unprotected = f"{assets.busybox_root()}, {data}: the host does not prevent it"
        assert f"chrootvm: root in the guest can write to {unprotected}" in done.stderr
    assert (shared / "new").read_text() == "new\n"


def run_in_container(*words: str) -> subprocess.CompletedProcess[str]:
    """Run chrootvm as root with the capabilities that container engines give by default."""
    limits = (f"--bounding-set={CONTAINER_CAPABILITIES}", "--inh-caps=-all")
    command = ["setpriv", *limits, *COMMAND, *words]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_shared_directories_may_have_any_names(
    virtiofsd_options: tuple[str, str], tmp_path: Path
) -> None:
    options: list[str] = []
    for number, name in enumerate(NAMES):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "in").write_text(f"what was in {number}\n")
        options += ["--mount", f"d{number}", str(tmp_path / name)]
        options += ["--mount-ro", f"r{number}", f"{tmp_path / name}:/tmp/r{number}"]
    script = (
        f"for n in $(seq 0 {len(NAMES) - 1}); do cat /run/mnt/d$n/in /tmp/r$n/in; "
        "echo done $n >/run/mnt/d$n/out; done; poweroff -f"
    )
    words = (*virtiofsd_options, *options, assets.busybox_root(), "busybox", "sh", "-c", script)
    status, output, errors = run(*words, folder=tmp_path)
    assert (status, errors) == (0, "")
    for number, name in enumerate(NAMES):
        assert output.count(f"what was in {number}\n") == 2, name
        assert (tmp_path / name / "out").read_text() == f"done {number}\n", name


@pytest.mark.parametrize(
    ("family", "name"), [("c", "root, with: \udcff it all"), ("rust", "root, with: it all")]
)
def test_the_root_directory_may_have_any_name(family: str, name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    assets.make_busybox_root(str(root))
    assets.add_kernel(assets.kernel("bookworm"), str(root))
    words = ("--virtiofsd", FAMILIES[family](), "--rw", str(root), "busybox", "sh", "-c")
    assert run(*words, "echo hi >/new; poweroff -f", folder=tmp_path)[0] == 0
    assert (root / "new").read_text() == "hi\n"


def test_a_path_that_is_not_utf8_is_refused_for_the_virtiofsd_in_rust(tmp_path: Path) -> None:
    (tmp_path / "\udcff").mkdir()
    options = ("--virtiofsd", assets.rust_virtiofsd(), "--mount", "d", str(tmp_path / "\udcff"))
    status, output, errors = run(*options, assets.busybox_root(), "--", "true", folder=tmp_path)
    assert (status, output) == (125, "")
    assert errors.startswith(
        f"chrootvm: cannot share {tmp_path}/\\xff: its path is not UTF-8, and "
    )


def test_a_relative_root_may_be_named_like_an_option(tmp_path: Path) -> None:
    os.symlink(assets.busybox_root(), tmp_path / "--rw")
    words = ("--", os.path.relpath(tmp_path / "--rw"), "busybox", "poweroff", "-f")
    assert run(*words, folder=tmp_path)[0] == 0


def change_files(directory: Path) -> None:
    """Change, delete and make files in a directory that the guest has already read."""
    (directory / "same").write_text("two")
    (directory / "longer").write_text(", longer than before")
    (directory / "gone").unlink()
    (directory / "new").write_text(", new")


@WARM_ONLY
@pytest.mark.usefixtures("start")
def test_the_guest_sees_changes_made_on_the_host(
    virtiofsd_options: tuple[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    assets.make_busybox_root(str(root))
    directories = [root / "data", tmp_path / "ro", tmp_path / "rw"]
    for directory in directories:
        directory.mkdir()
        for name, content in (("same", "one"), ("longer", ", short"), ("gone", ", gone")):
            (directory / name).write_text(content)
    kernel = assets.kernel("bookworm")
    options = ("--kernel", kernel.image, "--modules", kernel.modules)
    shares = ("--mount-ro", "ro", str(directories[1]), "--mount", "rw", str(directories[2]))
    guest_paths = ("/data", "/run/mnt/ro", "/run/mnt/rw")
    command = ("--", "sh", "-c", LIST_TWICE, "sh", *guest_paths)
    words = (*virtiofsd_options, *options, *shares, str(root), *command)
    with chrootvm(*words, folder=tmp_path, stdin=subprocess.PIPE) as session:
        session.expect("ready\n")
        for directory in directories:
            change_files(directory)
        assert session.process.stdin
        session.process.stdin.write(b"go on\n")
        session.process.stdin.flush()
        status, output, errors = session.finish()
    before = [f"{path} one, short, gone gone longer same" for path in guest_paths]
    after = [f"{path} two, longer than before, new longer new same" for path in guest_paths]
    assert (status, errors) == (0, "")
    assert output.splitlines() == [*before, "ready", *after]
