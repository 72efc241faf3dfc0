"""Run a program as an ordinary user.

    python3 unprivileged.py namespaces|none PATH… -- COMMAND [ARG]…

Started by root, it changes to the user ID USER, in a new mount namespace in which that user can
reach each PATH, also below directories that others may not search. The host's mounts do not change.
With `none`, the kernel refuses to create further user namespaces.
"""

import ctypes
import os
import subprocess
import sys

USER = 12345  # user and group ID that no account has
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def main(words: list[str]) -> None:
    separator = words.index("--")
    if os.geteuid() == 0:
        enter_mount_namespace([os.path.realpath(path) for path in words[1:separator]])
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    if words[0] == "none":
        refuse_namespaces()
    os.execvp(words[separator + 1], words[separator + 1 :])


def unshare(flags: int) -> None:
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def enter_mount_namespace(paths: list[str]) -> None:
    """Enter a mount namespace in which every user can reach `paths`.

    A tmpfs covers each directory on the way that others may not search, and the paths below it are
    bind-mounted again at their old places. The directory's other files are hidden.
    """
    unshare(CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    descriptors = {path: os.open(path, os.O_PATH) for path in paths}
    barriers = {barrier for path in paths if (barrier := unsearchable_parent(path))}
    for barrier in sorted(barriers):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "shown", barrier], check=True)
    for path in sorted(paths):
        if any(path.startswith(f"{barrier}/") for barrier in barriers) and not os.path.exists(path):
            os.makedirs(path)
            source = f"/proc/self/fd/{descriptors[path]}"
            command = ["mount", "--no-canonicalize", "--rbind", source, path]
            subprocess.run(command, check=True, pass_fds=[descriptors[path]])


def unsearchable_parent(path: str) -> str:
    """Return the topmost parent directory that others may not search; empty if there is none."""
    parts = path.split("/")[1:-1]
    parents = ["/" + "/".join(parts[: number + 1]) for number in range(len(parts))]
    return next((parent for parent in parents if not os.stat(parent).st_mode & 0o001), "")


def refuse_namespaces() -> None:
    """Enter a user namespace in which no other can be created, with this user only in it.

    /proc/sys/user/max_user_namespaces is a limit of each namespace: namespaces(7).
    """
    user, group = os.geteuid(), os.getegid()
    _libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else root owns /proc/self after setuid: prctl(2)
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
