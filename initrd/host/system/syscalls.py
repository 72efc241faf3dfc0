"""The system calls that Python's `os` lacks, as the host's side needs them.

Every function raises OSError with the call's name in place of a file name. The mount calls go by
number: C libraries have had them for a few years only, and the numbers are the same everywhere.
"""

import ctypes
import os

PR_SET_PDEATHSIG = 1
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_MOUNT_ATTR_RDONLY = 1
_NR_OPEN_TREE, _NR_MOVE_MOUNT, _NR_MOUNT_SETATTR = 428, 429, 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttributes(ctypes.Structure):
    """`struct mount_attr` of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def die_with_parent(signal: int) -> None:
    """Have the kernel send `signal` to this process when the thread that started it ends."""
    _checked("prctl", _libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0))


def enter_user_namespace() -> None:
    """Enter a new user namespace, in which this process may do what only root may elsewhere."""
    _checked("unshare(CLONE_NEWUSER)", _libc.unshare(CLONE_NEWUSER))


def leave_mount_namespace() -> None:
    """Enter a copy of the mount namespace whose changes nobody else sees."""
    _checked("unshare(CLONE_NEWNS)", _libc.unshare(CLONE_NEWNS))
    _checked("mount", _libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))


def mount_read_only(directory: int) -> int:
    """Mount an open directory over itself, read-only with all that is mounted below it.

    Returns a descriptor of the new mount's top.
    """
    tree = _syscall(
        _NR_OPEN_TREE,
        "open_tree",
        ctypes.c_int(directory),
        b"",
        ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE | _AT_EMPTY_PATH),
    )
    attributes = _MountAttributes(attr_set=_MOUNT_ATTR_RDONLY)
    _syscall(
        _NR_MOUNT_SETATTR,
        "mount_setattr",
        ctypes.c_int(tree),
        b"",
        ctypes.c_uint(_AT_EMPTY_PATH | _AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)
    places = (ctypes.c_int(tree), b"", ctypes.c_int(directory), b"")
    _syscall(_NR_MOVE_MOUNT, "move_mount", *places, flags)
    return tree


def _syscall(number: int, name: str, *arguments: object) -> int:
    return _checked(name, _libc.syscall(ctypes.c_long(number), *arguments))
