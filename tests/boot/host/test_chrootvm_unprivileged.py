"""chrootvm as an ordinary user, with and without user namespaces: shares, missing permissions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import assets
from tests.boot import images, unprivileged
from tests.boot.build_tree import build_tree
from tests.boot.chrootvm import COMMAND, DEADLINE
from tests.boot.start_chrootvm import WARM

pytestmark = pytest.mark.boot


@pytest.fixture(autouse=True)
def _cache_of_the_user(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a cache of the user's; templates are not kept in `tmp_path`, which is below root's."""
    if os.geteuid() == 0:
        os.chown(directory, unprivileged.USER, unprivileged.USER)
    monkeypatch.setenv("XDG_CACHE_HOME", directory)


def chrootvm(
    folder: Path, *words: str, namespaces: str = "namespaces"
) -> subprocess.CompletedProcess[str]:
    """Run chrootvm as an ordinary user: as the owner of `folder` when the tests run as root.

    With `namespaces="none"` that user cannot create user namespaces.
    """
    if os.geteuid() == 0:
        os.chown(folder, unprivileged.USER, unprivileged.USER)
    reachable = (images.TOP, assets.cache(), sys.prefix, sys.base_prefix, str(folder))
    environment = {"HOME": str(folder), "TMPDIR": str(folder), "PATH": "/usr/bin:/bin"}
    inherited = {name: os.environ[name] for name in ("XDG_CACHE_HOME", WARM) if name in os.environ}
    return subprocess.run(
        [sys.executable, unprivileged.__file__, namespaces, *reachable, "--", *COMMAND, *words],
        env={**environment, **inherited},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.usefixtures("start")
def test_files_made_by_the_guests_root_belong_to_the_user_on_the_host(tmp_path: Path) -> None:
    options = ("--virtiofsd", assets.rust_virtiofsd(), "--mount", "s", str(tmp_path))
    script = "id -u; echo written >/run/mnt/s/new; touch /new 2>&1"
    done = chrootvm(tmp_path, *options, assets.busybox_root(), "--", "sh", "-c", script)
    assert (done.stdout, done.stderr) == ("0\ntouch: /new: Read-only file system\n", "")
    assert (tmp_path / "new").read_text() == "written\n"
    assert (tmp_path / "new").stat().st_uid == tmp_path.stat().st_uid
    assert [path.name for path in tmp_path.iterdir() if "chrootvm-" in path.name] == []


@pytest.mark.usefixtures("start")
def test_modules_of_a_build_tree_are_mounted(tmp_path: Path) -> None:
    options = ("--virtiofsd", assets.rust_virtiofsd(), "--kernel", build_tree())
    root = tmp_path / "root"
    assets.make_busybox_root(str(root))
    (root / "lib/modules").mkdir(parents=True)
    script = "modprobe nls_utf8; cut -d' ' -f1 /proc/modules | head -n 1"
    done = chrootvm(tmp_path, *options, str(root), "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nls_utf8\n", "")


def test_a_user_without_namespaces_has_shares_without_a_sandbox(tmp_path: Path) -> None:
    shared, kept = tmp_path / "shared", tmp_path / "kept"
    for folder in (shared, kept):
        folder.mkdir()
        (folder / "file").write_text("old\n")
        for path in (folder, folder / "file"):
            os.chown(path, *(unprivileged.USER,) * 2 if os.geteuid() == 0 else (-1, -1))
    options = ("--mount", "s", str(shared), "--mount-ro", "k", str(kept))
    words = ("--virtiofsd", assets.rust_virtiofsd(), *options, assets.busybox_root(), "--", "sh")
    script = (
        "cd /run/mnt; echo new >s/new; echo more >>s/file; stat -c %u s/new s/file; "
        "mount -o remount,rw k; echo bad >k/file; echo bad >k/new; rm k/file; cat k/file"
    )
    done = chrootvm(tmp_path, *words, "-c", script, namespaces="none")
    assert (done.returncode, done.stdout) == (0, "0\n0\nold\n"), done.stderr
    why = "unshare(CLONE_NEWUSER): No space left on device"
    warning, *errors = done.stderr.splitlines()
    shares = f"{assets.busybox_root()}, {shared}, {kept}"
    assert warning == (
        f"chrootvm: virtiofsd gets no namespaces ({why}) and runs without a sandbox: only its own "
        f"code keeps the guest in {shares}, and a guest that takes it over has the rights of "
        "this user; try: sysctl user.max_user_namespaces=10000 as root, or run chrootvm as root"
    )
    assert len(errors) == 3
    assert all("Read-only file system" in error for error in errors)
    assert ((shared / "new").read_text(), (shared / "file").read_text()) == ("new\n", "old\nmore\n")
    assert (shared / "new").stat().st_uid == shared.stat().st_uid
    assert [(path.name, path.read_text()) for path in kept.iterdir()] == [("file", "old\n")]
    doctor = chrootvm(tmp_path, "--doctor", *words, namespaces="none")
    assert (doctor.returncode, doctor.stderr) == (0, "")
    assert f"\nwarning  sandbox      virtiofsd gets no namespaces ({why}) and runs" in doctor.stdout
    dry = chrootvm(tmp_path, "--dry-run", *words, namespaces="none")
    assert dry.stdout.count(" --sandbox=none ") == 3
    assert dry.stderr.splitlines() == [warning]


def test_the_virtiofsd_in_c_is_refused_for_an_ordinary_user(tmp_path: Path) -> None:
    words = ("--virtiofsd", assets.c_virtiofsd(), assets.busybox_root(), "--", "id")
    done = chrootvm(tmp_path, *words)
    assert (done.returncode, done.stdout) == (125, "")
    assert "is the virtiofsd in C, which only root can use\ntry: the one in Rust" in done.stderr


def test_an_unreadable_directory_or_kernel_is_named(tmp_path: Path) -> None:
    words = ("--virtiofsd", assets.rust_virtiofsd())
    done = chrootvm(tmp_path, *words, "--mount", "c", "/root/x", assets.busybox_root(), "--", "id")
    assert done.returncode == 125
    assert done.stderr.startswith("chrootvm: cannot share /root/x: ")
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"")
    kernel.chmod(0)
    done = chrootvm(tmp_path, *words, "--kernel", str(kernel), assets.busybox_root(), "--", "id")
    assert done.returncode == 125
    assert f"cannot read the kernel {kernel}: it is not for this user" in done.stderr
