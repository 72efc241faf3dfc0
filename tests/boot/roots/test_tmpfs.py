"""root=tmpfs: the files of the initramfs become the root, unchanged, with little extra memory.

The image holds every kind of file, unusual modes and owners, names of arbitrary bytes, and 200 MiB
of data, which must not be in memory twice. The memory that is needed is in docs/roots.md.
"""

import gzip
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from initrd.host.image import cpio, lsinitramfs
from testbed import assets
from tests.boot import containers, images, machine, tree_listing
from tests.boot.conftest import make_root

pytestmark = pytest.mark.boot

DATA_SIZE = 200 << 20  # bytes
DATA_FILES = 4  # files that hold the data
BLOCK_SIZE = 1 << 14  # bytes; no two blocks are equal
KERNEL_ENTRIES = (b".", b"dev/console")  # the kernel makes these before it unpacks an initramfs

INSPECT = (
    tree_listing.LISTING_FUNCTIONS
    + f"""
section() {{ echo; echo "=== $1"; }}
section mounts; cat /proc/mounts
section memory; cat /proc/meminfo
section write; echo hello 2>&1 >/new; cat /new
section data; wc -c /data/*
case $(cat /proc/cmdline) in *brief*) exit ;; esac
rm /new
# What is below the API mounts shows in a second view of the root.
mount -o bind / /mnt
section tree; stat_files /mnt
section contents; contents /mnt
umount /mnt
section pivot; mount -o bind /c/rootfs /c/rootfs && cd /c/rootfs && mkdir -p old && \\
    unshare -m sh -c 'pivot_root . old && ls /' 2>&1; cd /; umount /c/rootfs; rmdir /c/rootfs/old
{containers.CGROUPS}
section container; {containers.RUN.format("/c")} 2>&1
"""
)


@dataclass(frozen=True)
class PackedTree:
    """The entries of an archive, and the compressed archive."""

    entries: list[cpio.Entry]
    archive: bytes


@pytest.fixture(scope="module")
def system(shared_directory: str) -> str:
    """Make a directory with a small system that can run containers; return its path."""
    root = make_root(f"{shared_directory}/root", INSPECT)
    containers.add_runtime(root)
    containers.make_bundle(f"{root}/c")
    return root


@pytest.fixture(scope="module")
def packed_tree(system: str) -> PackedTree:
    system_entries = tree_listing.entries_of(system)
    paths = {entry.path for entry in system_entries}
    unusual = [entry for entry in make_unusual_entries(system) if entry.path not in paths]
    entries = [*system_entries, *unusual, *make_data_entries()]
    # mkvirtinitrd's image has these directories too, and the kernel sets each time only once.
    shared = {b"usr", b"usr/lib", b"usr/lib/modules"}
    entries = [entry.replace(mtime=0) if entry.path in shared else entry for entry in entries]
    return PackedTree(entries, gzip.compress(cpio.pack(entries), 1, mtime=0))


def make_data_entries() -> list[cpio.Entry]:
    """Return files whose data is easily compressed, and of which no two blocks are the same."""
    noise = os.urandom(BLOCK_SIZE - 8)
    blocks = [number.to_bytes(8) + noise for number in range(DATA_SIZE // BLOCK_SIZE)]
    files = [cpio.file(f"data/{at}", b"".join(blocks[at::DATA_FILES])) for at in range(DATA_FILES)]
    return [
        entry.replace(mtime=tree_listing.EPOCH + 5) for entry in (cpio.directory("data"), *files)
    ]


def make_unusual_entries(system: str) -> list[cpio.Entry]:
    with open(f"{system}/bin/busybox", "rb") as file:
        program = file.read()
    unusual = [
        cpio.directory("odd"),
        cpio.directory("odd/sticky", 0o1777),
        cpio.directory("odd/setgid", 0o2755).replace(gid=50),
        cpio.directory("odd/closed", 0o000),
        cpio.directory("odd/owned", 0o711).replace(uid=7, gid=8),
        cpio.directory("odd/owned/empty", 0o500).replace(uid=70_000, gid=80_000),
        cpio.file("odd/setuid", program, 0o4755),
        cpio.file("odd/setgid/file", b"x", 0o2711).replace(uid=1, gid=50),
        cpio.file("odd/unreadable", b"secret", 0o000).replace(uid=9),
        cpio.file("odd/all", b"", 0o7777),
        cpio.file("odd/two  spaces ", b"s"),
        cpio.file("odd/new\nline", b"n"),
        cpio.file("odd/-rf", b"-"),
        cpio.file("odd/\u00fc\u2603", b"utf-8"),
        cpio.file(b"odd/\xff\xfe\x80", b"no utf-8"),
        cpio.directory(b"odd/d\xe9r"),
        cpio.file(b"odd/d\xe9r/\xa0", b"in it"),
        cpio.file(f"odd/{'n' * 255}", b"long"),
        cpio.file("odd/page", bytes(range(256)) * 16),
        cpio.file("odd/more", bytes(range(256)) * 16 + b"+"),
        cpio.symlink("odd/absolute", "/odd/page"),
        cpio.symlink("odd/dangling", "../nowhere"),
        cpio.symlink("odd/directory", "sticky"),
        cpio.symlink(b"odd/to\xff", b"\xff\xfe\x80").replace(uid=3, gid=4),
        cpio.symlink("odd/loop", "loop"),
        cpio.hard_link("odd/owned/hard", "odd/page"),
        cpio.hard_link("odd/sticky/hard too", "odd/page"),
        cpio.device("odd/char", stat.S_IFCHR | 0o640, 1, 3).replace(gid=6),
        cpio.device("odd/block", stat.S_IFBLK | 0o660, 259, 70_000),
        cpio.device("odd/pipe", stat.S_IFIFO | 0o602, 0, 0),
        cpio.device("odd/socket", stat.S_IFSOCK | 0o700, 0, 0),
        # Hidden below the mounts of /init, as in any root that was made by hand.
        cpio.device("dev/null", stat.S_IFCHR | 0o666, 1, 3),
        cpio.file("run/left/over", b"below /run"),
        cpio.directory("run/left"),
        # Not modules for /init to load: these are in a directory named by a kernel version.
        cpio.directory("usr"),
        cpio.directory("usr/lib"),
        cpio.directory("usr/lib/modules"),
        cpio.directory("usr/lib/modules/6.1/kernel"),
        cpio.directory("usr/lib/modules/6.1"),
        cpio.file("usr/lib/modules/6.1/kernel/x.ko", b"module"),
    ]
    return [
        entry.replace(mtime=tree_listing.EPOCH + number) for number, entry in enumerate(unusual)
    ]


@pytest.fixture(scope="module")
def boot(packed_tree: PackedTree, shared_directory: str) -> machine.Boot:
    return _boot(packed_tree.archive, f"{shared_directory}/boot", "bookworm", memory="512M")


def test_initramfs_files_arrive_in_the_tmpfs_unchanged(
    packed_tree: PackedTree, boot: machine.Boot
) -> None:
    found, expected = (
        tree_listing.parse_listing(boot.section("tree")),
        tree_listing.expected_table(packed_tree.entries),
    )
    for path in KERNEL_ENTRIES:
        del found[path]
    assert {path: row for path, row in found.items() if expected.get(path) != row} == {}
    assert expected.keys() - found.keys() == set()
    assert boot.section("contents").split()[0] == tree_listing.contents(packed_tree.entries, found)


def test_target_runs_in_a_writable_tmpfs_root(boot: machine.Boot) -> None:
    assert boot.section("pid") == "1"
    mounts = [line.split() for line in boot.section("mounts").splitlines()]
    (root,) = [fields for fields in mounts if fields[1] == "/" and fields[2] != "rootfs"]
    assert root[2] == "tmpfs"
    assert root[3].startswith("rw")
    assert not {"nosuid", "nodev", "noexec"} & set(root[3].split(","))
    assert {"/dev", "/proc", "/sys", "/run", "/tmp"} <= {fields[1] for fields in mounts}
    assert "hello" in boot.section("write")
    assert boot.status == 0


def test_initramfs_data_is_in_memory_only_once_after_the_boot(boot: machine.Boot) -> None:
    lines = (line.split() for line in boot.section("memory").splitlines())
    kilobytes = {fields[0].rstrip(":"): int(fields[1]) for fields in lines}
    # Shmem is the pages of a tmpfs; Unevictable has those of an initramfs on a ramfs.
    assert kilobytes["Shmem"] + kilobytes["Unevictable"] < (DATA_SIZE >> 10) + (40 << 10)


def test_container_runtime_can_pivot_root_in_a_tmpfs_root(boot: machine.Boot) -> None:
    assert {"bin", "proc", "old"} <= set(boot.section("pivot").split())
    containers.check_container_output(boot.section("container"))


def test_container_runtime_can_pivot_root_in_a_virtiofs_root(system: str, directory: str) -> None:
    kernel = assets.kernel("bookworm")
    append = "init=/probe panic=-1 rw"
    image = images.make(kernel, f"{directory}/image", "--cmdline", append)
    shares = (machine.Share("rootfs", system),)
    boot = machine.boot(machine.Machine(kernel.image, append, image, shares), directory)
    assert {"bin", "proc", "old"} <= set(boot.section("pivot").split())
    containers.check_container_output(boot.section("container"))


def documented_memory(image: str) -> int:
    """Return the memory that an image needs by the formula in docs/roots.md, in MiB."""
    text = Path("docs/roots.md").read_text(encoding="utf-8")
    formula = r"memory = (\d+) MB \+ ([\d.]+) \* \(image \+ files\)"
    ((constant, factor),) = re.findall(formula, text)
    content = Path(image).read_bytes()
    files = sum(map(memory_of_entry, lsinitramfs.read_entries(content)))
    return int(constant) + int(float(factor) * (len(content) + files)) // (1 << 20)


def memory_of_entry(entry: cpio.Entry) -> int:
    """Return the bytes that an unpacked entry takes: whole pages of data, and 2 kB."""
    pages = -(-len(entry.data) // 4096) if stat.S_ISREG(entry.mode) else 0
    return pages * 4096 + 2048


def pack_with_data(tree: PackedTree, files: int) -> bytes:
    """Pack the tree with so many of its data files."""
    left_out = {f"data/{number}".encode() for number in range(files, DATA_FILES)}
    return cpio.pack(entry for entry in tree.entries if entry.path not in left_out)


def test_tmpfs_root_boots_with_the_documented_memory(
    packed_tree: PackedTree, directory: str
) -> None:
    """The image is small, so this memory does not suffice for two copies of the files."""
    archive = gzip.compress(pack_with_data(packed_tree, 2), 1)
    image = _make_image(archive, directory, "trixie")
    memory = documented_memory(image)
    assert memory < 100 + 2 * (DATA_SIZE // 2 >> 20)
    boot = _boot_image(image, directory, "trixie", "ro brief", memory=f"{memory}M")
    assert boot.section("data").split()[-2:] == [str(DATA_SIZE // 2), "total"]
    assert "Read-only file system" in boot.section("write")
    assert boot.status == 0


def test_tmpfs_root_with_three_quarters_of_the_documented_memory_does_not_boot(
    packed_tree: PackedTree, directory: str
) -> None:
    """The image is not compressed: the kernel has it and its files in memory at the same time."""
    image = _make_image(pack_with_data(packed_tree, 1), directory, "trixie")
    memory = documented_memory(image) * 3 // 4
    boot = _boot_image(image, directory, "trixie", "brief", memory=f"{memory}M")
    assert "System is deadlocked on memory" in boot.console


def test_full_tmpfs_fails_the_boot_and_advises_more_memory(system: str, directory: str) -> None:
    archive = cpio.pack(tree_listing.entries_of(system))
    boot = _boot(archive, directory, "bookworm", "rootflags=size=1m", memory="256M")
    assert re.search("initrd: boot failed: cannot move /[^ ]+ from the initramfs", boot.console)
    assert "No space left on device" in boot.console
    assert "give the machine more memory" in boot.console
    assert "Traceback" not in boot.console


def _boot(
    archive: bytes, directory: str, suite: str, options: str = "", *, memory: str
) -> machine.Boot:
    image = _make_image(archive, directory, suite)
    return _boot_image(image, directory, suite, options, memory=memory)


def _make_image(archive: bytes, directory: str, suite: str) -> str:
    """Make an image whose second archive is `archive`; return its path."""
    os.makedirs(directory, exist_ok=True)
    image = images.make(assets.kernel(suite), f"{directory}/image", "--cmdline", "root=tmpfs")
    with open(image, "ab") as file:
        # The kernel unpacks one archive after the other, whether they are compressed or not.
        file.write(cpio.padding(file.tell()) + archive)
    return image


def _boot_image(
    image: str, directory: str, suite: str, options: str, *, memory: str
) -> machine.Boot:
    append = f"root=tmpfs init=/probe panic=-1 {options}"
    # As users start it: the kernel's image, which decompresses itself, needs some more memory.
    vm = machine.Machine(assets.kernel(suite).image, append, image, memory=memory, plain=True)
    return machine.boot(vm, directory)
