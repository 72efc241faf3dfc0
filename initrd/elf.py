"""Read which machine an ELF file is for, from its header. Pure.

Source: elf(5); the numbers are EM_* of the kernel's include/uapi/linux/elf-em.h.
"""

HEADER_SIZE = 20  # bytes: up to the end of `e_machine`
# By e_machine, ELFCLASS and ELFDATA; names as `uname -m` prints them.
_MACHINES = {
    (3, 1, 1): "i386",
    (21, 2, 1): "ppc64le",
    (22, 2, 2): "s390x",
    (40, 1, 1): "arm",
    (62, 1, 1): "x32",
    (62, 2, 1): "x86_64",
    (183, 2, 1): "aarch64",
    (243, 2, 1): "riscv64",
}
_KERNELS = {"arm": "aarch64", "i386": "x86_64", "x32": "x86_64"}


def machine_number(head: bytes) -> int:
    """Return `e_machine` of an ELF file, from its first HEADER_SIZE bytes."""
    order = "big" if head[5] == 2 else "little"
    return int.from_bytes(head[18:HEADER_SIZE], order)  # type: ignore[arg-type]


def elf_machine(head: bytes) -> str:
    """Return the machine that a file is for, from its first HEADER_SIZE bytes.

    It is empty for a file that is no ELF file, and for a machine that is not in the table.
    """
    if len(head) < HEADER_SIZE or not head.startswith(b"\x7fELF"):
        return ""
    return _MACHINES.get((machine_number(head), head[4], head[5]), "")


def kernel_for(machine: str) -> str:
    """Return the machine whose kernels execute the programs for `machine`."""
    return _KERNELS.get(machine, machine)
