"""chrootvm --overlay, --overlay=FILE and --rw: where changes to the root are stored."""

import os
import subprocess
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import chrootvm, run
from tests.boot.host.test_chrootvm_shares import read_tree

pytestmark = pytest.mark.boot


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory that the test may change."""
    path = tmp_path / "root"
    assets.make_busybox_root(str(path))
    (path / "file").write_text("from the host\n")
    return path


def root_with_kernel(root: Path, *options: str) -> tuple[str, ...]:
    """Return the arguments of chrootvm for `root` and a kernel, with further options."""
    kernel = assets.kernel("bookworm")
    return (*options, "--kernel", kernel.image, "--modules", kernel.modules, str(root))


@pytest.mark.every_architecture
@pytest.mark.usefixtures("start")
def test_overlay_in_memory_leaves_the_root_unchanged(root: Path, tmp_path: Path) -> None:
    before = read_tree(root)
    script = "cat /file; echo changed >/file && cat /file; rm /bin/vi; grep ' / ' /proc/mounts"
    words = root_with_kernel(root, "--overlay")
    status, output, errors = run(*words, "--", "sh", "-c", script, folder=tmp_path)
    assert (status, errors) == (0, "")
    assert output.startswith("from the host\nchanged\noverlay / overlay rw")
    assert read_tree(root) == before


@pytest.mark.every_architecture
@pytest.mark.usefixtures("start")
def test_overlay_in_a_file_keeps_changes_for_the_next_boot(root: Path, tmp_path: Path) -> None:
    before, image = read_tree(root), tmp_path / "an image, with: it all"
    (tmp_path / "other").mkdir()
    words = root_with_kernel(root, f"--overlay={image}")
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
    with chrootvm(
        *words, "--", "sh", "-c", script, folder=tmp_path, stdin=subprocess.PIPE
    ) as session:
        session.expect("it is up")
        status, _, errors = run(*words, "--", "true", folder=tmp_path / "other")
        assert status == 125
        assert f"cannot keep the overlay in {image}: another chrootvm is using it" in errors
        assert session.process.stdin
        session.process.stdin.write(b"go\n")
        session.process.stdin.flush()
        status, output, _ = session.finish()
        assert (status, output) == (0, "first\nkept\nit is up\n")

    # The same with INIT in place of a command: INIT itself writes the file system out.
    init = ("busybox", "sh", "-c", "cat /file /new; sync; poweroff -f")
    status, output, _ = run(*words, *init, folder=tmp_path)
    assert status == 0
    assert "first\nsecond\nkept\n" in output
    assert read_tree(root) == before


@pytest.mark.usefixtures("attempted_start")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("root", "it is a directory"),
        ("root/file", "it does not hold an ext4 file system, and is left as it is"),
        ("no/file", "No such file or directory"),
    ],
)
def test_an_unusable_overlay_file_is_reported_and_not_changed(
    name: str, reason: str, root: Path, tmp_path: Path
) -> None:
    before = read_tree(root)
    words = root_with_kernel(root, f"--overlay={tmp_path / name}")
    status, output, errors = run(*words, "--", "true", folder=tmp_path)
    assert (status, output) == (125, "")
    assert reason in errors
    assert read_tree(root) == before


def test_a_dry_run_makes_no_overlay_file(root: Path, tmp_path: Path) -> None:
    words = root_with_kernel(root, f"--overlay={tmp_path / 'image'}", "--dry-run")
    status, output, _ = run(*words, folder=tmp_path)
    assert status == 0
    assert str(tmp_path / "image") in output
    assert not os.path.exists(tmp_path / "image")


@pytest.mark.every_architecture
@pytest.mark.usefixtures("start")
def test_rw_option_writes_changes_to_the_root_on_the_host(root: Path, tmp_path: Path) -> None:
    script = "echo changed >/file; mkdir /new; chown 7:8 /new"
    words = root_with_kernel(root, "--rw")
    status, _, errors = run(*words, "--", "sh", "-c", script, folder=tmp_path)
    assert (status, errors) == (0, "")
    assert (root / "file").read_text() == "changed\n"
    assert ((root / "new").stat().st_uid, (root / "new").stat().st_gid) == (7, 8)


def test_rw_and_overlay_options_together_are_rejected(root: Path, tmp_path: Path) -> None:
    words = root_with_kernel(root, "--rw", "--overlay")
    status, _, errors = run(*words, "--", "true", folder=tmp_path)
    assert status == 125
    assert "cannot make the root writable twice" in errors
