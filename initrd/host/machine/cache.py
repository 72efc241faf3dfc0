"""Delete what chrootvm has saved for later starts.

That is images, kernels, links to modules, templates and test results.
"""

import stat

from initrd.errors import reason
from initrd.host.image import depmod
from initrd.host.qemu import accel
from initrd.host.system import cached
from initrd.host.system.hosterror import HostError
from initrd.host.system.private import PrivateFolder, is_number, is_temporary

_FOLDERS = (*cached.FOLDERS, depmod.FOLDER, "templates")
_TEMPLATE_SUFFIXES = (".template", ".failure")


def clean_cache(path: str) -> None:
    """Delete the files in the cache directory at `path`, which need not exist.

    Only what has a name that chrootvm gives is deleted: files, and directories of links to modules.
    Raises HostError.
    """
    try:
        with cached.open_cache(path, create=False) as cache:
            for name in _FOLDERS:
                _clean_folder(cache, name)
            _remove_files(cache)
    except FileNotFoundError:  # nothing has been saved
        pass
    except OSError as error:
        raise HostError(f"cannot delete the files in {path}", reason(error)) from error


def _clean_folder(cache: PrivateFolder, name: str) -> None:
    try:
        with cache.open_folder(name, create=False) as folder:
            _remove_files(folder)
            if name == depmod.FOLDER:
                depmod.remove_staged(folder)
    except FileNotFoundError:  # nothing has been saved there
        pass


def _remove_files(folder: PrivateFolder) -> None:
    for name, status in folder.entries():
        if stat.S_ISREG(status.st_mode) and _is_saved(name):
            folder.remove(name)


def _is_saved(name: str) -> bool:
    """Return whether chrootvm gives this name to a file in its cache."""
    is_template = any(is_number(name, 8, suffix) for suffix in _TEMPLATE_SUFFIXES)
    is_entry = cached.is_entry_name(name) or is_template
    return is_entry or is_temporary(name) or name in (accel.RESULT, "lock")
