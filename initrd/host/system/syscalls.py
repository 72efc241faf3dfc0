"""System calls that Python's `os` lacks.

They are prctl(2), seccomp(2), unshare(2), openat2(2), and mounting by descriptor. Every function
raises OSError with the call's name in place of a file name. openat2, open_tree, move_mount and
mount_setattr are called by number: C libraries lack them or have had them for a few years only, and
the numbers are the same on all architectures.
"""

import ctypes
import errno
import os

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_NEW_LISTENER, _SECCOMP_WAIT_KILLABLE = 1 << 3, 1 << 5
# Unlike those below, this number is not the same on all architectures.
_NR_SECCOMP = {"x86_64": 317, "s390x": 348, "ppc64le": 358}.get(os.uname().machine, 277)
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_MOUNT_ATTR_RDONLY = 1
_NR_OPEN_TREE, _NR_MOVE_MOUNT, _NR_OPENAT2, _NR_MOUNT_SETATTR = 428, 429, 437, 442
_RESOLVE_IN_ROOT = 0x10  # include/uapi/linux/openat2.h

_INSTRUCTION_SIZE = 8  # bytes: sizeof(struct sock_filter)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def die_with_parent(signal: int) -> None:
    """Have the kernel send `signal` to this process when the thread that started it ends.

    Source: PR_SET_PDEATHSIG of prctl(2).
    """
    _check("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def install_notifying_filter(program: bytes) -> int:
    """Filter the system calls of this process and of programs that it executes.

    Returns a descriptor that reports the calls for which the filter, a program in BPF, returns
    SECCOMP_RET_USER_NOTIF. No program executed later gets privileges by its file.
    """
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    filter_program = _FilterProgram(len(program) // _INSTRUCTION_SIZE, program)
    flags = _SECCOMP_NEW_LISTENER | _SECCOMP_WAIT_KILLABLE
    try:
        return _seccomp(flags, filter_program)
    except OSError as error:
        if error.errno != errno.EINVAL:  # before Linux 5.19: a signal interrupts a reported call
            raise
    return _seccomp(_SECCOMP_NEW_LISTENER, filter_program)


def unshare_user_namespace() -> None:
    """Enter a new user namespace, in which this process has all capabilities."""
    _check("unshare(CLONE_NEWUSER)", _libc.unshare(_CLONE_NEWUSER))


def unshare_mount_namespace() -> None:
    """Enter a copy of the mount namespace, whose changes stay in it."""
    _check("unshare(CLONE_NEWNS)", _libc.unshare(_CLONE_NEWNS))
    _check("mount", _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))


def find_beneath(directory: int, path: bytes) -> int:
    """Return a descriptor (O_PATH) of the file that `path` names when `directory` is `/`.

    Links are followed, except those of /proc that lead anywhere. Linux has it since 5.6. Source:
    RESOLVE_IN_ROOT of openat2(2).
    """
    how = _OpenHow(flags=os.O_PATH | os.O_CLOEXEC, resolve=_RESOLVE_IN_ROOT)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _syscall(_NR_OPENAT2, "openat2", ctypes.c_int(directory), path, ctypes.byref(how), size)


def mount_read_only(directory: int) -> int:
    """Mount an open directory over itself, read-only with all that is mounted below it.

    Returns a descriptor of the new mount's root directory.
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
    source, target = ctypes.c_int(tree), ctypes.c_int(directory)
    _syscall(_NR_MOVE_MOUNT, "move_mount", source, b"", target, b"", flags)
    return tree


class _FilterProgram(ctypes.Structure):
    """`struct sock_fprog` of seccomp(2)."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _seccomp(flags: int, program: _FilterProgram) -> int:
    mode = ctypes.c_uint(_SECCOMP_SET_MODE_FILTER)
    return _syscall(_NR_SECCOMP, "seccomp", mode, ctypes.c_uint(flags), ctypes.byref(program))


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class _MountAttributes(ctypes.Structure):
    """`struct mount_attr` of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _syscall(number: int, name: str, *arguments: object) -> int:
    return _check(name, _libc.syscall(ctypes.c_long(number), *arguments))


def _check(name: str, result: int) -> int:
    """Return the result of a system call. Raises OSError when it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result
