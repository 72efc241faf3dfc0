"""Targets in the code of the host: files of a root, images, the cache, requests of clients."""

import binascii
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from initrd.elf import elf_machine
from initrd.host.image import compress, cpio
from initrd.host.image.kmod import ModuleTree
from initrd.host.image.lsinitramfs import ImageError, format_entry, read_entries
from initrd.host.image.modulefile import parse_modinfo, read_modinfo_section
from initrd.host.image.modules import load_order
from initrd.host.machine.rootfs import read_release, version_key
from initrd.host.qemu.arch import ARCHES, kernel_machine
from initrd.host.qemu.pvh import extract_vmlinux, has_pvh_entry
from initrd.host.service.requests import RUN, VERSION, parse_request
from initrd.host.system.cached import Cache, CacheEntry, CacheFolder, open_cached
from initrd.host.system.files import OpenFile
from initrd.host.system.hosterror import HostError
from initrd.host.template import memory
from initrd.host.template.store import Store
from tests.fuzz.scratch import scratch
from tests.fuzz.target import Target
from tests.host.image.module_trees import elf_module
from tests.host.qemu.kernel_images import KERNEL, PACKED, bzimage

_LIMIT = 1 << 20  # bytes of what is decompressed
_KEY = "key"
_CHANGED = 1_700_000_000 * 10**9  # time of the change of a template's file
_LISTS = ("dep", "softdep", "alias", "builtin", "builtin.modinfo")
_MAX_NAMES = 50  # modules whose order is looked up


def run_image(data: bytes) -> None:
    """List an image."""
    with suppress(ImageError, HostError):
        for count, entry in enumerate(read_entries(data)):
            assert count < 1 << 20
            assert format_entry(entry).isprintable()


def run_archive(data: bytes) -> None:
    """Write an archive of entries that the input describes, one in a line, and read it again."""
    entries = tuple(map(_entry_of, data.split(b"\n")))
    try:
        archive = cpio.pack(entries)
    except ValueError:  # the entries contradict each other
        return
    found = {entry.path: entry for entry in read_entries(archive)}
    for entry in entries:
        read = found[entry.path]
        if entry.link:
            names = {other.path for other in entries if other.link == entry.link}
            assert {read.link, found[entry.link].link} <= {b"", entry.link, *names}
        else:
            assert (read.mode, read.data, read.device) == (entry.mode, entry.data, entry.device)


def _entry_of(line: bytes) -> cpio.Entry:
    kind, _, rest = line.partition(b" ")
    path, _, text = rest.partition(b" ")
    if kind == b"dir":
        return cpio.directory(path)
    if kind == b"link":
        return cpio.symlink(path, text)
    if kind == b"hard":
        return cpio.hard_link(path, text)
    if kind == b"node":
        return cpio.device(path, 0o20600, len(text), len(path))
    return cpio.file(path, text)


def run_compressed(data: bytes) -> None:
    """Decompress a stream of any format."""
    with suppress(compress.CompressError):
        content, size = compress.decompress(data, _LIMIT)
        assert len(content) <= _LIMIT
        assert 0 < size <= len(data)


def run_module_lists(data: bytes) -> None:
    """Read the files of depmod, which an empty line separates, and put the modules in order."""
    folder = scratch("modules")
    folder.mkdir(exist_ok=True)
    for name, text in zip(_LISTS, (*data.split(b"\n\n"), *[b""] * 5), strict=False):
        (folder / f"modules.{name}").write_bytes(text)
    with suppress(HostError):
        tree = ModuleTree(str(folder))
        for name in tuple(tree._lines)[:_MAX_NAMES]:
            tree.path(name)
            with suppress(HostError):
                assert name in load_order(tree, [name])
        for word in ("fs-virtiofs", "a", "no such module"):
            tree.find(word)
            tree.similar_names(word)


def run_modinfo(data: bytes) -> None:
    """Read the section .modinfo of a module in a build tree."""
    path = scratch("modinfo.ko")
    path.write_bytes(data)
    with suppress(HostError):
        section, _size = read_modinfo_section(str(path))
        parse_modinfo(section)


def run_kernel(data: bytes) -> None:
    """Read the release of a kernel, and the ELF file in it."""
    with _open(data) as file:
        version_key(read_release(OpenFile("/boot/vmlinuz-6.1", file)))
    assert kernel_machine(data) in {"i386", *(arch.name for arch in ARCHES), elf_machine(data), ""}
    has_pvh_entry(data)
    extracted = extract_vmlinux(data)
    assert not extracted or has_pvh_entry(extracted)


@contextmanager
def _open(data: bytes) -> Iterator[int]:
    """Yield a descriptor of a file with this content."""
    file = os.memfd_create("fuzz")
    try:
        os.write(file, data)
        yield file
    finally:
        os.close(file)


def run_stored_template(data: bytes) -> None:
    """Find a template in the cache, and load it where its header is valid."""
    folder = scratch("templates")
    folder.mkdir(mode=0o700, exist_ok=True)
    store = Store(str(folder), _LIMIT)
    for suffix in ("template", "failure"):
        path = folder / f"{_NAME}.{suffix}"
        path.write_bytes(data)
        path.chmod(0o600)
        os.utime(path, ns=(_CHANGED, _CHANGED))
    assert isinstance(store.find_failure(_KEY), str)
    template = store.find(_KEY)
    if template is None:
        return
    target = memory.create(_LIMIT)
    with suppress(OSError):
        template.load(target)
    os.close(target)
    template.close()


def run_cache_entry(data: bytes) -> None:
    """Open an entry of the cache whose description is the input: it is used, or made again."""
    folder = scratch("cache") / "images"
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        folder.parent.chmod(0o700)
        (folder / _IMAGE_NAME).write_bytes(b"image")
        (folder / _IMAGE_NAME).chmod(0o600)
        os.utime(folder / _IMAGE_NAME, ns=(_COMPLETE, _COMPLETE))
    description = folder / f"{_NAME}.entry"
    description.write_bytes(data)
    description.chmod(0o600)
    with Cache(str(folder.parent)) as cache:
        made = CacheEntry(b"made", (__file__,))  # not stored: its input is newer than the clock
        file = open_cached(CacheFolder(cache, "images"), _KEY, lambda: made, lambda: 0.0)
    try:
        assert os.pread(file, 9, 0) in (b"image", b"made")
    finally:
        os.close(file)


def run_request(data: bytes) -> None:
    """Read the request of a client to a machine that stays."""
    with suppress(HostError):
        request = parse_request(data)
        assert request.size >= 0


_NAME = f"{binascii.crc32(_KEY.encode()):08x}"  # of the file for _KEY
_IMAGE_NAME = "0" * 32 + ".img"
_COMPLETE = 946_684_800 * 10**9  # as in initrd.host.system.cached
_CHECKSUM = b"%d" % binascii.crc32(b"imageimage")  # of both ends of the file
_ARCHIVE = cpio.pack(
    (
        cpio.file("bin/init", b"\x7fELF", 0o755),
        cpio.hard_link("bin/sh", "bin/init"),
        cpio.symlink("lib", "usr/lib"),
        cpio.device("dev/console", 0o20600, 5, 1),
    )
)
_STREAMS = tuple(compress.compress(_ARCHIVE, method) for method in compress.METHODS[1:])
_MODULES = (
    b"a.ko: b.ko.xz\nb.ko.xz:\nkernel/fs/c.ko: a.ko b.ko.xz\n\n"
    b"softdep a pre: c d post: fs-x\nsoftdep c post: a\n\n"
    b"alias fs-x c\nalias fs-virtiofs a\nalias fs-virtiofs b\n\n"
    b"kernel/drivers/d.ko\n\n"
    b"d.alias=pci:x\0d.license=GPL\0\n"
)
_HEADER = b'{"key": "key", "changed": %d, "extents": 1, "state": 2, "content": 4, "checksum": %d}\n'
_TABLE_AND_STATE = struct.pack("<QQ", 0, 4) + b"st"

TARGETS = (
    Target("image", run_image, (_ARCHIVE, bytes(8) + _ARCHIVE + _STREAMS[0], *_STREAMS)),
    Target(
        "archive",
        run_archive,
        (b"file bin/init text\nhard bin/sh bin/init\nlink lib usr/lib\nnode dev/x 55\ndir etc",),
    ),
    Target("compressed", run_compressed, _STREAMS),
    Target("module-lists", run_module_lists, (_MODULES,), inputs=300),
    Target(
        "modinfo",
        run_modinfo,
        (elf_module("depends=a,b", "softdep=pre: c", "alias=x"),),
        inputs=500,
    ),
    Target(
        "kernel",
        run_kernel,
        (KERNEL, bzimage(PACKED), *(bzimage(compress.compress(KERNEL, m)) for m in ("xz", "lz4"))),
    ),
    Target(
        "stored-template",
        run_stored_template,
        (
            _HEADER % (_CHANGED, binascii.crc32(_TABLE_AND_STATE)) + _TABLE_AND_STATE + b"data",
            b'{"key": "key", "why": "no memory"}',
        ),
        inputs=500,
    ),
    Target(
        "cache-entry",
        run_cache_entry,
        (
            b"\0".join(
                (_KEY.encode(), _IMAGE_NAME.encode(), b"5", _CHECKSUM, b"/no/such", b"None", b"end")
            ),
        ),
        inputs=500,
    ),
    Target(
        "request",
        run_request,
        (
            b'{"version": %d, "kind": "%s", "channels": ["control"], "size": 3, "shown": "x"}\n'
            % (VERSION, RUN.encode()),
            b'{"version": %d, "kind": "info"}\n' % VERSION,
        ),
    ),
)
