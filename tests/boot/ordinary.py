"""Runs a program as an ordinary user of this machine, and leaves no trace of that.

    python3 ordinary.py namespaces|none PATH… -- COMMAND [ARG]…

Started by root it takes a user's number, and a mount namespace in which that user can reach the
PATHs, wherever they are. With `none` the kernel refuses this user any namespace.
"""

import ctypes
import os
import subprocess
import sys

USER = 12345  # nobody's
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def main(words: list[str]) -> None:
    at = words.index("--")
    if os.geteuid() == 0:
        enter_mount_namespace([os.path.realpath(path) for path in words[1:at]])
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    if words[0] == "none":
        refuse_namespaces()
    os.execvp(words[at + 1], words[at + 1 :])


def unshare(flags: int) -> None:
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def enter_mount_namespace(paths: list[str]) -> None:
    """Show `paths` where they are, and hide all else in what is closed to others on the way."""
    unshare(CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    opened = {path: os.open(path, os.O_PATH) for path in paths}
    closed = {place for path in paths if (place := closed_on_the_way(path))}
    for place in sorted(closed):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "shown", place], check=True)
    for path in sorted(paths):
        if any(path.startswith(f"{place}/") for place in closed) and not os.path.exists(path):
            os.makedirs(path)
            source = f"/proc/self/fd/{opened[path]}"
            command = ["mount", "--no-canonicalize", "--rbind", source, path]
            subprocess.run(command, check=True, pass_fds=[opened[path]])


def closed_on_the_way(path: str) -> str:
    """Return the first directory above `path` that others may not pass; nothing if they may."""
    parts = path.split("/")[1:-1]
    above = ["/" + "/".join(parts[: number + 1]) for number in range(len(parts))]
    return next((one for one in above if not os.stat(one).st_mode & 0o001), "")


def refuse_namespaces() -> None:
    """Enter a user namespace that may have no others, with nobody in it but ourselves."""
    user, group = os.geteuid(), os.getegid()
    _libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # or our files in /proc are root's, as we were
    unshare(CLONE_NEWUSER)
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{user} {user} 1")
    write("/proc/self/gid_map", f"{group} {group} 1")
    write("/proc/sys/user/max_user_namespaces", "0")


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
