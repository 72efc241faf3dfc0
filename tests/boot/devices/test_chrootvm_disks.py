"""chrootvm --disk: what the guest reads and writes, and images that several programs use."""

import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import chrootvm, run

pytestmark = pytest.mark.boot

SIZE = 1 << 20  # bytes
# Magic, version, no backing file, size of a cluster, size of the disk: QEMU's qcow2.txt.
QCOW2_HEADER = struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 0, 0, 16, 1 << 30)
# Attempts to change the read-only disk /dev/vda. None may have an effect.
WRITE_ATTEMPTS = """
cat /sys/block/vda/ro
echo changed | dd of=/dev/vda conv=fsync 2>/dev/null && echo written
blockdev --setrw /dev/vda && echo changed | dd of=/dev/vda conv=fsync 2>/dev/null && echo written
head -c 8 /dev/vda
"""
# Hold the disk until a line is read.
HOLD = "echo changed | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null; echo it is up; read line"


def make_image(path: Path, content: bytes) -> Path:
    """Make a disk image that begins with `content`."""
    path.write_bytes(content.ljust(SIZE, b"\0"))
    return path


def command(*options: str) -> tuple[str, ...]:
    """Return the arguments of chrootvm for a shell script, which follows."""
    return (*options, assets.busybox_root(), "--", "sh", "-c")


@pytest.mark.usefixtures("start")
def test_guest_reads_and_writes_a_disk(tmp_path: Path) -> None:
    image = make_image(tmp_path / "an image, with: it all", b"from the host\n")
    script = """
head -n 1 /dev/vda; cat /sys/block/vda/size
echo 'from the guest' | dd of=/dev/vda conv=notrunc 2>/dev/null
echo end | dd of=/dev/vda bs=1 seek=1048572 conv=notrunc 2>/dev/null
"""
    status, output, errors = run(*command(f"--disk={image}"), script, folder=tmp_path)
    assert (status, output, errors) == (0, f"from the host\n{SIZE // 512}\n", "")
    content = image.read_bytes()
    assert content[:15] + content[-4:] == b"from the guest\nend\n"
    assert len(content) == SIZE


@pytest.mark.usefixtures("start")
def test_guest_cannot_change_a_read_only_disk(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"the host")
    before = image.stat().st_mtime_ns, image.read_bytes()
    words = command(f"--disk={image},ro")
    status, output, errors = run(*words, WRITE_ATTEMPTS, folder=tmp_path)
    assert (status, output) == (0, "1\nthe host"), errors
    assert (image.stat().st_mtime_ns, image.read_bytes()) == before


@pytest.mark.usefixtures("start")
def test_disks_have_names_in_their_order_after_the_disk_of_the_overlay(tmp_path: Path) -> None:
    images = [make_image(tmp_path / f"{number}", b"%d\n" % number) for number in range(5)]
    disks = [f"--disk={path}{',ro' if number % 2 else ''}" for number, path in enumerate(images)]
    script = "for disk in /dev/vd?; do echo $disk $(head -n 1 $disk); done"
    first = run(*command(*disks), script, folder=tmp_path)
    assert first == (0, "".join(f"/dev/vd{'abcde'[n]} {n}\n" for n in range(5)), "")
    script = "echo kept >>/kept; cat /kept; for disk in /dev/vd[b-z]; do head -n 1 $disk; done"
    words = command(*disks[:3], f"--overlay={tmp_path}/overlay")
    for count in (1, 2):
        done = run(*words, script, folder=tmp_path)
        assert done == (0, "kept\n" * count + "0\n1\n2\n", "")


@pytest.mark.usefixtures("start")
def test_format_of_a_disk_is_not_probed(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", QCOW2_HEADER)
    script = "head -c 3 /dev/vda; cat /sys/block/vda/size"
    done = run(*command(f"--disk={image},ro"), script, folder=tmp_path)
    assert done == (0, f"QFI{SIZE // 512}\n", "")


@pytest.mark.usefixtures("start")
def test_data_that_the_guest_has_synced_survives_the_end_of_chrootvm(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"untouched")
    words = command(f"--disk={image}")
    with chrootvm(*words, HOLD, folder=tmp_path, stdin=subprocess.PIPE) as session:
        session.expect("it is up")
        session.process.kill()
    assert image.read_bytes().startswith(b"changed\n")


@pytest.mark.usefixtures("start")
def test_machines_share_an_image_only_when_all_of_them_read_it(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"shared\n")
    (tmp_path / "other").mkdir()
    script = "head -n 1 /dev/vda; echo it is up; read line"
    words = command(f"--disk={image},ro")
    with chrootvm(*words, script, folder=tmp_path, stdin=subprocess.PIPE) as session:
        session.expect("it is up")
        done = run(*words, "head -n 1 /dev/vda", folder=tmp_path / "other")
        assert done == (0, "shared\n", "")
        status, _, errors = run(*command(f"--disk={image}"), "true", folder=tmp_path / "other")
        assert status == 125
        assert f"cannot use {image} as a disk: another chrootvm is using it" in errors


@contextmanager
def other_qemu(image: Path) -> Iterator[None]:
    """Run a QEMU that has locked an image, and not through chrootvm."""
    words = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"]
    words += ["-drive", f"if=none,id=d,format=raw,file={image}", "-device", "virtio-blk,drive=d"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        assert b"QMP" in process.stdout.readline()
        yield
        process.kill()


@pytest.mark.usefixtures("start")
def test_image_that_another_program_uses_is_an_error_that_is_not_remembered(
    tmp_path: Path,
) -> None:
    image = make_image(tmp_path / "image", b"data")
    words = command(f"--disk={image}")
    assert run(*words, "true", folder=tmp_path) == (0, "", "")
    with other_qemu(image):
        status, output, errors = run(*words, "true", folder=tmp_path)
    assert (status, output) == (125, "")
    assert errors == (
        f"chrootvm: cannot use {image} as a disk: another program is using it\n"
        "try: wait for that to end, or a copy\n"
    )
    assert run(*words, "true", folder=tmp_path) == (0, "", "")


@pytest.mark.usefixtures("attempted_start")
@pytest.mark.parametrize(
    ("name", "reason"), [("missing", "No such file"), ("", "Is a directory"), ("empty", "is empty")]
)
def test_file_that_is_no_disk_is_reported(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    words = command(f"--disk={tmp_path / name}")
    status, output, errors = run(*words, "true", folder=tmp_path)
    assert (status, output) == (125, "")
    assert f"cannot use {tmp_path / name} as a disk: " in errors
    assert reason in errors
