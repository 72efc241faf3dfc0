"""chrootvm --overlay, --overlay=FILE and --rw: what stays, where, and what does not."""

import os
import subprocess
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import chrootvm, run
from tests.boot.host.test_chrootvm_shares import state

pytestmark = pytest.mark.boot


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory of the test's own."""
    top = tmp_path / "root"
    assets.make_busybox_root(str(top))
    (top / "file").write_text("from the host\n")
    return top


def options(root: Path, *more: str) -> tuple[str, ...]:
    kernel = assets.kernel("bookworm")
    return (*more, "--kernel", kernel.image, "--modules", kernel.modules, str(root))


def test_what_is_written_to_memory_is_lost(root: Path, tmp_path: Path) -> None:
    before = state(root)
    script = "cat /file; echo changed >/file && cat /file; rm /bin/vi; grep ' / ' /proc/mounts"
    words = options(root, "--overlay")
    status, output, errors = run(*words, "--", "sh", "-c", script, folder=tmp_path)
    assert (status, errors) == (0, "")
    assert output.startswith("from the host\nchanged\noverlay / overlay rw")
    assert state(root) == before


def test_what_is_written_to_a_file_is_there_the_next_time(root: Path, tmp_path: Path) -> None:
    before, image = state(root), tmp_path / "an image, with: it all"
    (tmp_path / "other").mkdir()
    words = options(root, f"--overlay={image}")
    script = "cat /file; echo first >/file; echo kept >/new; df -k / | tail -n 1"
    status, output, errors = run(*words, "--", "sh", "-c", script, folder=tmp_path)
    assert (status, errors) == (0, "")
    assert output.startswith("from the host\n")
    assert int(output.split()[-5]) > 15 << 20, "kB in the file system of the image"
    assert image.stat().st_size == 16 << 30
    assert image.stat().st_blocks * 512 < 64 << 20
    checked = subprocess.run(["/sbin/e2fsck", "-fn", image], check=False, capture_output=True)
    assert checked.returncode == 0, checked.stdout

    script = "cat /file /new; echo it is up; read word; echo second >>/file"
    with chrootvm(*words, "--", "sh", "-c", script, folder=tmp_path, stdin=-1) as session:
        session.expect("it is up")
        status, _, errors = run(*words, "--", "true", folder=tmp_path / "other")
        assert status == 125
        assert f"cannot keep the overlay in {image}: another chrootvm is using it" in errors
        assert session.process.stdin
        session.process.stdin.write(b"go\n")
        session.process.stdin.flush()
        status, output, _ = session.finish()
        assert (status, output) == (0, "first\nkept\nit is up\n")

    # The same without a command of ours to bring it to rest: the target does that.
    init = ("busybox", "sh", "-c", "cat /file /new; sync; poweroff -f")
    status, output, _ = run(*words, *init, folder=tmp_path)
    assert status == 0
    assert "first\nsecond\nkept\n" in output
    assert state(root) == before


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("root", "it is a directory"),
        ("root/file", "it does not hold an ext4 file system, and is left as it is"),
        ("no/file", "No such file or directory"),
    ],
)
def test_what_cannot_be_an_image_is_named(name: str, why: str, root: Path, tmp_path: Path) -> None:
    before = state(root)
    words = options(root, f"--overlay={tmp_path / name}")
    status, output, errors = run(*words, "--", "true", folder=tmp_path)
    assert (status, output) == (125, "")
    assert why in errors
    assert state(root) == before


def test_a_dry_run_makes_no_image(root: Path, tmp_path: Path) -> None:
    words = options(root, f"--overlay={tmp_path / 'image'}", "--dry-run")
    status, output, _ = run(*words, folder=tmp_path)
    assert status == 0
    assert str(tmp_path / "image") in output
    assert not os.path.exists(tmp_path / "image")


def test_a_writable_root_is_written_to(root: Path, tmp_path: Path) -> None:
    script = "echo changed >/file; mkdir /new; chown 7:8 /new"
    words = options(root, "--rw")
    status, _, errors = run(*words, "--", "sh", "-c", script, folder=tmp_path)
    assert (status, errors) == (0, "")
    assert (root / "file").read_text() == "changed\n"
    assert ((root / "new").stat().st_uid, (root / "new").stat().st_gid) == (7, 8)


def test_both_at_once_is_refused(root: Path, tmp_path: Path) -> None:
    words = options(root, "--rw", "--overlay")
    status, _, errors = run(*words, "--", "true", folder=tmp_path)
    assert status == 125
    assert "cannot make the root writable twice" in errors
