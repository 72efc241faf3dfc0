"""Boots that fail: the message names the cause, and the machine powers off before the deadline."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import make_root, write

pytestmark = pytest.mark.boot


@dataclass(frozen=True)
class Case:
    """A boot that fails, and the texts that must appear on the console."""

    name: str
    append: str
    messages: tuple[str, ...]
    suite: str = "bookworm"
    has_root_share: bool = True  # a share with the tag `rootfs`
    change: Callable[[str], object] = str  # changes the root directory, given its path
    missing_modules: tuple[str, ...] = ()  # left out of the image
    truncated_module: str = ""  # its file is cut in half


def _add_aarch64_program(root: str) -> None:
    with open(assets.probe(), "rb") as file:
        program = bytearray(file.read())
    program[18:20] = (183).to_bytes(2, "little")  # e_machine: AArch64
    with open(f"{root}/foreign", "wb") as file:
        file.write(program)
    os.chmod(f"{root}/foreign", 0o755)


def _add_script_without_interpreter(root: str) -> None:
    write(f"{root}/script", "#!/usr/bin/nothing -x\n", 0o755)


def _add_non_executable_file(root: str) -> None:
    write(f"{root}/file", "#!/bin/sh\n", 0o644)


def _add_executable_text_file(root: str) -> None:
    write(f"{root}/text", "echo hello\n", 0o755)


def _add_dangling_link(root: str) -> None:
    os.symlink("/opt/nowhere", f"{root}/link")


CASES = [
    Case(
        "no such tag",
        "rootfs=nosuch initrd.timeout=1",
        ("nosuch", "no tag nosuch after 1 s", "initrd.timeout="),
    ),
    Case(
        "no such tag, where the kernel lists the others",
        "rootfs=nosuch initrd.timeout=1",
        ("no tag nosuch after 1 s", "the tags there are: rootfs"),
        suite="trixie",
    ),
    Case(
        "no such tag for a share",
        "mount=data initrd.timeout=0.5",
        ("no tag data after 0.5 s", "/run/mnt/data"),
        suite="trixie",
    ),
    Case(
        "no virtiofs device at all",
        "initrd.timeout=0.5",
        ("no tag rootfs after 0.5 s", "no virtiofs devices at all"),
        has_root_share=False,
    ),
    Case(
        "no transport in the image",
        "",
        ("no virtio transport", "virtio_pci", "mkvirtinitrd --module virtio_pci"),
        missing_modules=("virtio_pci",),
    ),
    Case(
        "no virtiofs in the image",
        "",
        ("no virtiofs", "no module in the image brings it", "mkvirtinitrd"),
        missing_modules=("virtiofs",),
    ),
    Case(
        "a truncated module that the boot needs",
        "",
        ("cannot load module", "virtiofs.ko", "damaged", "no virtiofs"),
        truncated_module="virtiofs",
    ),
    Case(
        "a target that does not exist", "init=/no/where", ("/no/where", "no such file", "init=PATH")
    ),
    Case(
        "a target that is a dangling link",
        "init=/link",
        ("/link", "no such file"),
        change=_add_dangling_link,
    ),
    Case(
        "a target that is not executable",
        "init=/file",
        ("/file", "it is not executable", "chmod +x /file"),
        change=_add_non_executable_file,
    ),
    Case(
        "a target that is a named pipe",  # open(2) would block
        "init=/pipe",
        ("/pipe", "it is a named pipe"),
        change=lambda root: os.mkfifo(f"{root}/pipe", 0o755),
    ),
    Case(
        "a share mounted on a file",
        "rw mount=rootfs:/probe",
        ("/probe is there, but leads to no directory",),
    ),
    Case("a target that is a directory", "init=/bin", ("/bin", "it is a directory")),
    Case(
        "a target for another architecture",
        "init=/foreign",
        ("/foreign", "it is a program for aarch64, this is x86_64"),
        change=_add_aarch64_program,
    ),
    Case(
        "a script without its interpreter",
        "init=/script",
        ("/script", "it is a script for /usr/bin/nothing"),
        change=_add_script_without_interpreter,
    ),
    Case(
        "a target that is neither an ELF file nor a script",
        "init=/text",
        ("/text", "neither an ELF program nor a script"),
        change=_add_executable_text_file,
    ),
    Case(
        "a share whose directory is not in the root",
        "mount-ro=rootfs:/no/where rootfs=rootfs",
        ("/no/where", "make the directory"),
    ),
    Case(
        "two different roots",
        "rootfs=one rootfs=two",
        ("two different roots asked for", "one", "two"),
        has_root_share=False,
    ),
    Case(
        "a tag with dots",
        "mount=../x",
        ("mount=../x", "'../x' cannot be a tag"),
        has_root_share=False,
    ),
    Case("an empty tag", "mount=", ("mount=: a value is missing",), has_root_share=False),
    Case(
        "a path that is not absolute",
        "mount=a:relative",
        ("mount=a:relative", "not an absolute path"),
        has_root_share=False,
    ),
    Case(
        "an unknown value of initrd.onfail",
        "initrd.onfail=explode",
        ("initrd.onfail=explode", "choose one of poweroff, panic, shell"),
        has_root_share=False,
    ),
    Case(
        "a shell without a mounted root",
        "rootfs=nosuch initrd.timeout=0.5 initrd.onfail=shell",
        ("no tag nosuch", "no root is mounted to run a shell from"),
        has_root_share=False,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_failed_boot_names_its_cause_and_powers_off(case: Case, directory: str) -> None:
    boot = machine.boot(_machine(case, directory), directory)
    for text in ("initrd: boot failed: ", *case.messages):
        assert text in boot.console
    assert "powering off" in boot.console
    assert "Power down" in boot.console
    assert "Traceback" not in boot.console
    assert "Kernel panic" not in boot.console
    assert boot.status == 0


def test_onfail_panic_ends_in_a_kernel_panic(directory: str) -> None:
    case = Case("", "init=/no/where initrd.onfail=panic panic=-1", ())
    boot = machine.boot(_machine(case, directory), directory)
    assert "initrd: boot failed: cannot execute the target /no/where" in boot.console
    assert "Kernel panic" in boot.console
    assert "Traceback" not in boot.console


def test_onfail_shell_runs_a_shell_of_the_root_after_the_switch_of_root(directory: str) -> None:
    case = Case("", "init=/no/where initrd.onfail=shell panic=-1", ())
    with machine.running(_machine(case, directory), directory) as guest:
        guest.expect("running /bin/sh from the root")
        guest.send("echo $$ $((40 + 2)) $PWD; ls -d /probe; poweroff -f\n")
        boot = guest.wait()
    assert "initrd: boot failed: cannot execute the target /no/where" in boot.console
    assert "\n1 42 /\n/probe\n" in boot.console


def test_onfail_shell_runs_a_shell_of_the_root_before_the_switch_of_root(directory: str) -> None:
    case = Case("", "mount=nosuch initrd.timeout=0.5 initrd.onfail=shell panic=-1", ())
    with machine.running(_machine(case, directory), directory) as guest:
        guest.expect("running /bin/sh from the root")
        guest.send("echo $$ $((40 + 2)) $PWD; ls -d /probe; poweroff -f\n")
        boot = guest.wait()
    assert "no tag nosuch after 0.5 s" in boot.console
    assert "\n1 42 /\n/probe\n" in boot.console


def test_root_without_proc_and_dev_directories_boots_without_those_mounts(directory: str) -> None:
    def change(root: str) -> None:
        os.rmdir(f"{root}/proc")
        os.rmdir(f"{root}/dev")
        quiet = "busybox dmesg -n 1"  # a line of the kernel may come between those of the target
        script = f"#!/bin/sh\n{quiet}\necho $$ is it; ls -1d /sys/kernel /p*\npoweroff -f\n"
        write(f"{root}/target", script)
        os.chmod(f"{root}/target", 0o755)

    boot = machine.boot(_machine(Case("", "init=/target", (), change=change), directory), directory)
    assert "the root has no directory /proc" in boot.console
    assert "the root has no directory /dev" in boot.console
    assert "\n1 is it\n/probe\n/sys/kernel\n" in boot.console
    assert boot.status == 0


def _machine(case: Case, directory: str) -> machine.Machine:
    kernel = assets.kernel(case.suite)
    root = make_root(f"{directory}/root")
    case.change(root)
    image = images.make(kernel, f"{directory}/image")
    images.change(image, without=case.missing_modules, cut=case.truncated_module)
    shares = (machine.Share("rootfs", root),) if case.has_root_share else ()
    return machine.Machine(kernel.image, f"init=/probe {case.append}", image, shares)
