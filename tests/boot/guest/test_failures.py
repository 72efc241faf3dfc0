"""Boots that cannot succeed: each names what is wrong, and powers off long before the timeout."""

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
    """A boot that fails, and what has to be on the console then."""

    name: str
    append: str
    says: tuple[str, ...]
    suite: str = "bookworm"
    share: bool = True  # is there a tag `rootfs` at all
    change: Callable[[str], object] = str  # to the root directory, by its path
    without: tuple[str, ...] = ()  # modules that are left out of the image
    cut: str = ""  # a module whose file is only half there


def _foreign_program(root: str) -> None:
    with open(assets.probe(), "rb") as file:
        program = bytearray(file.read())
    program[18:20] = (183).to_bytes(2, "little")  # e_machine: AArch64
    with open(f"{root}/foreign", "wb") as file:
        file.write(program)
    os.chmod(f"{root}/foreign", 0o755)


def _script(root: str) -> None:
    write(f"{root}/script", "#!/usr/bin/nothing -x\n", 0o755)


def _plain_file(root: str) -> None:
    write(f"{root}/file", "#!/bin/sh\n", 0o644)


def _text(root: str) -> None:
    write(f"{root}/text", "echo hello\n", 0o755)


def _link_to_nowhere(root: str) -> None:
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
        share=False,
    ),
    Case(
        "no transport in the image",
        "",
        ("no virtio transport", "virtio_pci", "mkvirtinitrd --module virtio_pci"),
        without=("virtio_pci",),
    ),
    Case(
        "no virtiofs in the image",
        "",
        ("no virtiofs", "no module in the image brings it", "mkvirtinitrd"),
        without=("virtiofs",),
    ),
    Case(
        "a truncated module that the boot needs",
        "",
        ("cannot load module", "virtiofs.ko", "damaged", "no virtiofs"),
        cut="virtiofs",
    ),
    Case("no target", "init=/no/where", ("/no/where", "no such file", "init=PATH")),
    Case(
        "a target that is a dangling link",
        "init=/link",
        ("/link", "no such file"),
        change=_link_to_nowhere,
    ),
    Case(
        "a target that is not executable",
        "init=/file",
        ("/file", "it is not executable", "chmod +x /file"),
        change=_plain_file,
    ),
    Case(
        "a target that is a named pipe",  # to open it would be to wait for ever
        "init=/pipe",
        ("/pipe", "it is a named pipe"),
        change=lambda root: os.mkfifo(f"{root}/pipe", 0o755),
    ),
    Case(
        "a share in the place of a file",
        "rw mount=rootfs:/probe",
        ("/probe is there, but leads to no directory",),
    ),
    Case("a target that is a directory", "init=/bin", ("/bin", "it is a directory")),
    Case(
        "a target for another machine",
        "init=/foreign",
        ("/foreign", "it is a program for aarch64, this is x86_64"),
        change=_foreign_program,
    ),
    Case(
        "a script without its interpreter",
        "init=/script",
        ("/script", "it is a script for /usr/bin/nothing"),
        change=_script,
    ),
    Case(
        "a target that is neither",
        "init=/text",
        ("/text", "neither an ELF program nor a script"),
        change=_text,
    ),
    Case(
        "a share whose directory is not in the root",
        "mount-ro=rootfs:/no/where rootfs=rootfs",
        ("/no/where", "make the directory"),
    ),
    Case(
        "two different roots",
        "rootfs=one root=two rootfstype=virtiofs",
        ("two different roots asked for", "one", "two"),
        share=False,
    ),
    Case("a tag with dots", "mount=../x", ("mount=../x", "'../x' cannot be a tag"), share=False),
    Case("an empty tag", "mount=", ("mount=: a value is missing",), share=False),
    Case(
        "a path that is not absolute",
        "mount=a:relative",
        ("mount=a:relative", "not an absolute path"),
        share=False,
    ),
    Case(
        "an unknown choice",
        "initrd.onfail=explode",
        ("initrd.onfail=explode", "choose one of poweroff, panic, shell"),
        share=False,
    ),
    Case(
        "a shell, but no root to take it from",
        "rootfs=nosuch initrd.timeout=0.5 initrd.onfail=shell",
        ("no tag nosuch", "no root is mounted to run a shell from"),
        share=False,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_failed_boot_says_why_and_powers_off(case: Case, directory: str) -> None:
    boot = machine.boot(_machine(case, directory), directory)
    for text in ("initrd: boot failed: ", *case.says):
        assert text in boot.console
    assert "powering off" in boot.console
    assert "Power down" in boot.console
    assert "Traceback" not in boot.console
    assert "Kernel panic" not in boot.console
    assert boot.status == 0


def test_onfail_panic_leaves_it_to_the_kernel(directory: str) -> None:
    case = Case("", "init=/no/where initrd.onfail=panic panic=-1", ())
    boot = machine.boot(_machine(case, directory), directory)
    assert "initrd: boot failed: cannot execute the target /no/where" in boot.console
    assert "Kernel panic" in boot.console
    assert "Traceback" not in boot.console


def test_onfail_shell_gives_a_shell_from_the_root(directory: str) -> None:
    case = Case("", "init=/no/where initrd.onfail=shell panic=-1", ())
    with machine.running(_machine(case, directory), directory) as it:
        it.expect("running /bin/sh from the root")
        it.send("echo $$ $((40 + 2)) $PWD; ls -d /probe; poweroff -f\n")
        boot = it.wait()
    assert "initrd: boot failed: cannot execute the target /no/where" in boot.console
    assert "\n1 42 /\n/probe\n" in boot.console


def test_onfail_shell_works_before_the_switch_of_root_too(directory: str) -> None:
    case = Case("", "mount=nosuch initrd.timeout=0.5 initrd.onfail=shell panic=-1", ())
    with machine.running(_machine(case, directory), directory) as it:
        it.expect("running /bin/sh from the root")
        it.send("echo $$ $((40 + 2)) $PWD; ls -d /probe; poweroff -f\n")
        boot = it.wait()
    assert "no tag nosuch after 0.5 s" in boot.console
    assert "\n1 42 /\n/probe\n" in boot.console


def test_a_root_without_proc_and_dev_gets_what_can_be_moved(directory: str) -> None:
    def change(root: str) -> None:
        os.rmdir(f"{root}/proc")
        os.rmdir(f"{root}/dev")
        write(f"{root}/target", "#!/bin/sh\necho $$ is it; ls -1d /sys/kernel /p*\npoweroff -f\n")
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
    images.change(image, without=case.without, cut=case.cut)
    shares = (machine.Share("rootfs", root),) if case.share else ()
    return machine.Machine(kernel.image, f"init=/probe {case.append}", image, shares)
