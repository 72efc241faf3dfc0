"""Delete what chrootvm has saved for later starts.

That is images, kernels, links to modules, templates and test results.
"""

import os
import stat

from initrd.errors import HostError, reason
from initrd.host.image import depmod
from initrd.host.system.private import PrivateFolder

_FOLDERS = ("images", "kernels", depmod.FOLDER, "templates", "virtiofsd")

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def clean_cache(path: str) -> None:
    """Delete the files in the cache directory at `path`, which need not exist.

    Only what has a name that chrootvm gives is deleted: files, and directories of links to modules.
    Raises HostError.
    """
    for folder_path in (*(os.path.join(path, name) for name in _FOLDERS), path):
        _close_to_readers(folder_path)
        try:
            with PrivateFolder.open(folder_path, create=False) as folder:
                for name, status in folder.entries():
                    if stat.S_ISREG(status.st_mode):
                        folder.remove(name)
                if folder_path == os.path.join(path, depmod.FOLDER):
                    depmod.remove_staged(folder_path)
        except FileNotFoundError:  # nothing has been saved there
            pass
        except OSError as error:
            raise HostError(f"cannot delete the files in {folder_path}", reason(error)) from error


def _close_to_readers(path: str) -> None:
    """Give the mode 0700 to a directory that other users can read, but not change.

    Earlier versions made the cache's directory by the umask, and `PrivateFolder` refuses it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # `PrivateFolder` says why it cannot be used
        return
    try:
        status = os.fstat(descriptor)
        if status.st_uid == os.geteuid() and not status.st_mode & _WRITABLE_BY_OTHERS:
            os.fchmod(descriptor, stat.S_IRWXU)
    finally:
        os.close(descriptor)
