"""Make disk images without root, and the QEMU arguments that attach them."""

import os
import subprocess

SIGNATURE = 0x1234ABCD  # disk signature in the MBR
PARTITION = 2048  # first sector of the only partition of a partitioned disk
_SECTOR = 512  # bytes


def ext4(path: str, source: str = "", *, size: int = 32, options: tuple[str, ...] = ()) -> str:
    """Make an ext4 image of `size` MiB with the content of directory `source`; return `path`."""
    _make_sparse(path, size << 20)
    content = ["-d", source] if source else []
    _run("mkfs.ext4", "-q", "-F", *options, *content, path)
    return path


def squashfs(path: str, source: str) -> str:
    """Make a squashfs image of a directory; return `path`."""
    _run("mksquashfs", source, path, "-noappend", "-quiet", "-no-progress")
    return path


def erofs(path: str, source: str) -> str:
    """Make an erofs image of a directory; return `path`."""
    _run("mkfs.erofs", path, source)
    return path


def iso9660(path: str, source: str, label: str) -> str:
    """Make an image of a CD-ROM with the content of a directory; return `path`."""
    options = f"volume-id={label}"
    _run("bsdtar", "--format=iso9660", "--options", options, "-cf", path, "-C", source, ".")
    return path


def uuid(path: str) -> str:
    """Return the UUID of a file system image."""
    return _run("blkid", "-p", "-o", "value", "-s", "UUID", path).strip()


def gpt(path: str, content: str) -> str:
    """Make a disk with a GPT whose third partition is a copy of `content`; return its PARTUUID."""
    _write_partition(path, content)
    _run("sgdisk", "--clear", f"--new=3:{PARTITION}:+{_sectors(content)}", path)
    info = _run("sgdisk", "--info=3", path)
    (line,) = [line for line in info.splitlines() if "unique GUID" in line]
    return line.split()[-1].lower()


def mbr(path: str, content: str) -> str:
    """Make a disk with an MBR whose first partition is a copy of `content`; return its PARTUUID."""
    _write_partition(path, content)
    entry = b"\0\0\0\0\x83\0\0\0" + b"".join(
        number.to_bytes(4, "little") for number in (PARTITION, _sectors(content))
    )
    with open(path, "r+b") as disk:
        disk.seek(440)
        disk.write(SIGNATURE.to_bytes(4, "little") + b"\0\0" + entry)
        disk.seek(510)
        disk.write(b"\x55\xaa")
    return f"{SIGNATURE:08x}-01"


def mark_unclean(path: str) -> str:
    """Flag an ext4 image as after a power cut, with a journal to replay; return `path`."""
    _run("debugfs", "-w", "-R", "feature +needs_recovery", path)
    return path


def is_clean(path: str) -> bool:
    """Return whether an ext4 image was unmounted or remounted read-only (no journal to replay).

    Raises CalledProcessError when e2fsck finds errors in it.
    """
    _run("e2fsck", "-fn", path)
    return "needs_recovery" not in _run("dumpe2fs", "-h", path)


def overwrite(path: str, offset: int, data: bytes) -> str:
    """Overwrite the bytes of an image at `offset` with `data`; return `path`."""
    with open(path, "r+b") as image:
        image.seek(offset)
        image.write(data)
    return path


def drives(*paths: str, options: str = "") -> tuple[str, ...]:
    """Return the QEMU arguments that attach these images as /dev/vda, /dev/vdb and so on."""
    arguments: list[str] = []
    for number, path in enumerate(paths):
        arguments += ["-drive", f"file={path},format=raw,if=none,id=disk{number}{options}"]
        arguments += ["-device", f"virtio-blk-pci,drive=disk{number}"]
    return tuple(arguments)


def _write_partition(path: str, content: str) -> None:
    """Make a disk with `content` at sector PARTITION, and 1 MiB behind it for the backup GPT."""
    _make_sparse(path, (PARTITION + _sectors(content)) * _SECTOR + (1 << 20))
    with open(content, "rb") as source, open(path, "r+b") as disk:
        disk.seek(PARTITION * _SECTOR)
        disk.write(source.read())


def _sectors(path: str) -> int:
    """Return the size of a file in sectors, rounded up."""
    return -(-os.path.getsize(path) // _SECTOR)


def _make_sparse(path: str, size: int) -> None:
    """Make a file of `size` bytes without data."""
    with open(path, "wb") as file:
        file.truncate(size)


def _run(*command: str) -> str:
    """Run a program, also one in /usr/sbin or /sbin; return its standard output."""
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return result.stdout
