"""Run programs of another architecture in a root directory, by QEMU's emulation of one program.

Linux starts such a program by an entry of binfmt_misc. Since Linux 6.7 a user namespace can have
entries of its own, so nothing is registered on the host, and no privilege is needed. On an older
kernel the entry that a distribution's package has registered on the host is used.

Sources: the kernel's Documentation/admin-guide/binfmt-misc.rst, user_namespaces(7), elf(5).
"""

import os
import shutil
import subprocess
from collections.abc import Sequence

ELF_NUMBERS = {"x86_64": 62, "aarch64": 183}  # e_machine of elf(5)
# The start of an ELF file of 64 bits, little-endian; a program (type 2 or, by the mask, 3).
_MAGIC = r"\x7fELF\x02\x01\x01\x00" + r"\x00" * 8 + r"\x02\x00\x{:02x}\x00"
_MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"
NO_EMULATION = 99  # exit status of _SCRIPT
# Its arguments: the root, the name of the entry on the host, the entry to register, a number of
# pairs of a directory and its place in the root, and the command.
_SCRIPT = f"""
set -e
root=$1 name=$2 entry=$3 pairs=$4 entries=/proc/sys/fs/binfmt_misc
shift 4
if mount -t binfmt_misc none $entries 2>/dev/null; then
    printf %s "$entry" >$entries/register
elif [ ! -e $entries/$name ]; then
    exit {NO_EMULATION}
fi
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -t tmpfs none "$root/tmp"
while [ "$pairs" -gt 0 ]; do
    mount --bind "$1" "$root$2"
    shift 2
    pairs=$((pairs - 1))
done
exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/usr/sbin:/bin HOME=/tmp "$@"
"""


class EmulationError(Exception):
    """Programs of another architecture cannot run here; the text has the reason."""


def run_in_root(
    root: str, architecture: str, command: Sequence[str], directories: dict[str, str]
) -> None:
    """Run a command in a root directory of another architecture.

    It runs in a user and a mount namespace, as the root user there. `directories`: those of the
    host, and their places in the root, which exist. Raises EmulationError where the architecture
    cannot be emulated, and CalledProcessError when the command fails.
    """
    pairs = [word for pair in directories.items() for word in pair]
    arguments = (
        root,
        f"qemu-{architecture}",
        binfmt_entry(architecture),
        str(len(directories)),
        *pairs,
    )
    inside = ["sh", "-c", _SCRIPT, "sh", *arguments, *command]
    try:
        subprocess.run(["unshare", "--user", "--map-root-user", "--mount", *inside], check=True)
    except subprocess.CalledProcessError as error:
        if error.returncode != NO_EMULATION:
            raise
        raise EmulationError(
            f"cannot run programs for {architecture}: this kernel has no binfmt_misc in user "
            f"namespaces (Linux 6.7 has), and no /proc/sys/fs/binfmt_misc/qemu-{architecture}; "
            "try: a newer kernel, or install the package binfmt-support and mount binfmt_misc"
        ) from error


def find_emulator(architecture: str) -> str:
    """Return the path of QEMU's static emulator. Raises EmulationError when there is none."""
    for name in (f"qemu-{architecture}-static", f"qemu-{architecture}"):
        path = shutil.which(name)
        if path:
            return os.path.realpath(path)
    raise EmulationError(
        f"cannot run programs for {architecture}: no qemu-{architecture}-static is on the path; "
        "try: install it (package qemu-user-static)"
    )


def binfmt_entry(architecture: str) -> str:
    """Return the entry to register. F: the emulator is opened now, as it is not in the root."""
    magic = _MAGIC.format(ELF_NUMBERS[architecture])
    return f":qemu-{architecture}:M::{magic}:{_MASK}:{find_emulator(architecture)}:F"
