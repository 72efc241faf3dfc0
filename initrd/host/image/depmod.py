"""Make a module directory for the guest from a build tree: links to the modules, depmod's files.

depmod(8) does not work in a build tree, so a directory in the cache takes its files. The modules in
it are links to `build`, an empty directory on which the guest mounts the tree itself. The entry of
the cache is for one state of all modules: after a build there is a new one.

Sources: depmod(8); `modules_install` of the kernel's scripts/Makefile.modinst.
"""

import os
import resource
import stat
import time

from initrd.errors import reason
from initrd.host.image.buildtree import ORDER, BuildTree
from initrd.host.system.cached import file_state
from initrd.host.system.hosterror import HostError
from initrd.host.system.private import TEMPORARY_MAX_AGE, PrivateFolder, is_number, is_temporary
from initrd.host.system.process import Process, Program
from initrd.host.system.rootfile import MODULE_LIST, read_file

FOLDER = "modules"  # in the cache
ENTRIES_KEPT = 8
_FORMAT = 1  # of an entry
_COPIED = ("modules.builtin", "modules.builtin.modinfo")
_TIMEOUT = 600.0  # seconds; a distribution's thousands of modules take some
# Bytes. It has the largest module in memory, and what it keeps of all: less than 300 MB for all of
# Linux. It keeps some hundred bytes for each alias, and a hostile tree can have any number.
_MAX_ADDRESS_SPACE = 2 << 30
_MAX_TAIL = 1000  # bytes of its standard error
_BUILD = "build"  # depmod does not look for modules in it


def open_staged(tree: BuildTree, release: str, depmod: str, cache: str) -> str:
    """Return the module directory for the kernel `release` of a build tree, made where missing.

    `depmod` is the path of the program, `cache` this program's cache directory. Raises HostError.
    """
    if "/" in release or release in ("", ".", ".."):
        raise HostError(f"cannot use the modules in {tree.directory}", f"release {release!r}")
    folder = os.path.join(cache, FOLDER)
    name = _name_of(tree, release)
    try:
        with PrivateFolder.open(folder, create=True, readable=True) as opened:
            if not _has_entry(opened, name):
                _make_entry(tree, release, depmod, opened, name)
            opened.use(name)
            _remove_oldest(opened)
    except OSError as error:
        what = f"cannot keep links to the modules in {folder}"
        raise HostError(what, reason(error)) from error
    return _module_directory(os.path.join(folder, name), release)


def remove_staged(folder: PrivateFolder) -> None:
    """Remove all entries in the directory of the cache for them. Raises OSError."""
    for name, _ in _entries(folder):
        folder.remove_tree(name)


def _name_of(tree: BuildTree, release: str) -> str:
    """Return the name of an entry: a digest of all that it depends on."""
    import hashlib  # noqa: PLC0415 - a slow import, for build trees only

    paths = (ORDER, *_COPIED, *tree.files)
    states = [(path, file_state(os.path.join(tree.directory, path))) for path in paths]
    text = repr((_FORMAT, tree.directory, release, states))
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _module_directory(entry: str, release: str) -> str:
    return os.path.join(entry, "usr/lib/modules", release)


def _has_entry(folder: PrivateFolder, name: str) -> bool:
    """Return whether there is an entry. Raises UnsafeFolder if its name is that of another file."""
    try:
        with folder.open_folder(name, create=False):
            return True
    except FileNotFoundError:
        return False


def _make_entry(
    tree: BuildTree, release: str, depmod: str, folder: PrivateFolder, name: str
) -> None:
    """Make an entry under another name, and rename it when it is complete."""
    temporary = folder.create_temporary_folder()
    try:
        base = os.path.join(folder.path_by_descriptor, temporary)
        directory = _module_directory(base, release)
        os.makedirs(directory, 0o700)
        os.symlink("usr/lib", os.path.join(base, "lib"))  # depmod uses one of the two
        _fill(tree, directory)
        os.symlink(tree.directory, os.path.join(directory, _BUILD))  # the target of all links
        _run_depmod(depmod, base, directory, folder.fileno())
        os.unlink(os.path.join(directory, _BUILD))
        os.mkdir(os.path.join(directory, _BUILD))
        _allow_reading(directory)
        _rename(folder, temporary, name)
    finally:
        folder.remove_tree(temporary)


def _fill(tree: BuildTree, directory: str) -> None:
    """Make the links, and what `modules_install` copies."""
    present = [file for file in tree.files if os.path.isfile(os.path.join(tree.directory, file))]
    for file in present:
        link = os.path.join(directory, "kernel", file)
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(f"{'../' * (file.count('/') + 1)}{_BUILD}/{file}", link)
    with open(os.path.join(directory, ORDER), "w", errors="surrogateescape") as order:
        order.writelines(f"kernel/{file}\n" for file in present)
    for name in _COPIED:
        source = tree.find_file(name)
        try:
            content = read_file(source, MODULE_LIST)
        except FileNotFoundError:  # a kernel without modules that are built in
            continue
        except OSError as error:
            raise HostError(f"cannot read {source}", reason(error)) from error
        with open(os.path.join(directory, name), "wb") as copy:
            copy.write(content)


def _run_depmod(depmod: str, base: str, directory: str, descriptor: int) -> None:
    """Run depmod for the one module directory below `base`. Raises HostError.

    It inherits the descriptor, by which `base` is reached. It ends with this process.
    """
    what = f"cannot run {depmod} for the modules of the guest"
    with (
        open(os.devnull, "r+b") as null,
        open(os.memfd_create("stderr"), "w+b") as stderr,
    ):
        program = Program(
            (depmod, "-b", base, os.path.basename(directory)),
            descriptors=(descriptor,),
            before=_limit_memory,
            standard=(null.fileno(), null.fileno()),
        )
        try:
            process = Process(program, stderr.fileno())
        except HostError as error:
            raise HostError(what, error.why.removeprefix(f"{depmod}: ")) from error
        with process:
            status = process.wait(_TIMEOUT)
        last = _read_last_line(stderr.fileno())
    if status is None:
        raise HostError(what, f"it does not end within {_TIMEOUT:g} s")
    if status or not os.path.exists(os.path.join(directory, "modules.dep.bin")):
        why = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
        raise HostError(what, f"{why}: {last}" if last else why)


def _limit_memory() -> None:
    """Limit the address space of this process, which becomes depmod. Raises OSError."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = _MAX_ADDRESS_SPACE if hard == resource.RLIM_INFINITY else min(hard, _MAX_ADDRESS_SPACE)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _read_last_line(file: int) -> str:
    size = os.fstat(file).st_size
    tail = os.pread(file, _MAX_TAIL, max(0, size - _MAX_TAIL))
    return tail.decode(errors="surrogateescape").strip().rpartition("\n")[2]


def _allow_reading(directory: str) -> None:
    """Give the modes of an installed directory, whatever the umask is: users of the guest read."""
    for folder, _, names in os.walk(directory):
        os.chmod(folder, 0o755)  # noqa: S103 - the folder above is private
        for path in (os.path.join(folder, name) for name in names):
            if not os.path.islink(path):
                os.chmod(path, 0o644)


def _rename(folder: PrivateFolder, temporary: str, name: str) -> None:
    try:
        folder.commit(temporary, name, durable=False)
    except OSError:
        if not _has_entry(folder, name):  # else another process has made the same entry meanwhile
            raise


def _remove_oldest(folder: PrivateFolder) -> None:
    """Remove all but the entries that were used last, and temporary directories of crashes."""
    complete: list[tuple[int, str]] = []
    oldest = (time.time() - TEMPORARY_MAX_AGE) * 1e9
    for name, status in _entries(folder):
        if not is_temporary(name):
            complete.append((status.st_mtime_ns, name))
        elif status.st_mtime_ns < oldest:
            folder.remove_tree(name)
    for _, name in sorted(complete, reverse=True)[ENTRIES_KEPT:]:
        folder.remove_tree(name)


def _entries(folder: PrivateFolder) -> list[tuple[str, os.stat_result]]:
    """Return the directories that this module can have made, each with the result of lstat(2)."""
    return [
        (name, status)
        for name, status in folder.entries()
        if stat.S_ISDIR(status.st_mode) and (is_number(name, 32) or is_temporary(name))
    ]
