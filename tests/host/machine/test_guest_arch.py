"""The guest's architecture: chosen by the files of a root, and compared with /init."""

import os
from pathlib import Path

import pytest

from initrd.command import Command
from initrd.host.doctor import MISSING, examine, missing_finding
from initrd.host.machine import guest_arch, launch, locate
from initrd.host.machine.config import Machine
from initrd.host.machine.launch import plan_launch
from initrd.host.qemu.arch import find_arch
from initrd.host.system.hosterror import HostError
from initrd.options import Share
from tests.host import hostile_roots
from tests.host.conftest import root_share
from tests.host.qemu.kernel_images import PACKED, bzimage
from tests.test_elf import head

HOST = os.uname().machine
X86, ARM, I386 = head(62), head(183), head(3, bits=32)
KERNELS = {"x86": bzimage(PACKED), "arm": bytes(0x38) + b"ARM\x64", "none": b""}
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin"}
COMMAND = Command((b"true",))


@pytest.fixture
def x86_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be an x86 machine, whatever it is."""
    names = os.uname()
    changed = os.uname_result((*names[:4], "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: changed)


def fill(machine: Machine, kernel: str, **programs: bytes) -> Machine:
    """Give the root a kernel, and programs: `sh`, `env`, or `init`; add virtio_console."""
    root = Path(machine.root.source)
    modules = root / "usr/lib/modules/6.1"
    (modules / "vmlinuz").write_bytes(KERNELS[kernel])
    (modules / "modules.builtin").write_text("virtio_pci.ko\nvirtiofs.ko\nvirtio_console.ko\n")
    (root / "usr/bin").mkdir()
    for link, target in LINKS.items():
        (root / link).symlink_to(f"/{target}")
    for name, content in programs.items():
        path = root / ("usr/sbin" if name == "init" else "usr/bin") / name
        path.write_bytes(content)
        path.chmod(0o755)
    return machine.replace(command=COMMAND)


def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/nowhere"}


def planned_arch(machine: Machine, tmp_path: Path) -> str:
    """Return the architecture of a planned launch, without the check of its /init."""
    plan = plan_launch(machine, environment(tmp_path))
    for descriptor in plan.setup.descriptors:
        os.close(descriptor)
    return plan.setup.hardware.arch.name


@pytest.mark.usefixtures("x86_host")
@pytest.mark.parametrize(
    ("kernel", "programs", "expected"),
    [
        pytest.param("arm", {"sh": ARM, "env": ARM}, "aarch64", id="kernel and programs"),
        pytest.param("arm", {}, "aarch64", id="kernel only"),
        pytest.param("none", {"sh": ARM}, "aarch64", id="program only"),
        pytest.param("x86", {"sh": X86, "env": X86}, "x86_64", id="all the host's"),
        pytest.param("x86", {"sh": I386}, "x86_64", id="programs of 32 bits"),
        pytest.param("none", {"sh": X86, "env": ARM}, "x86_64", id="programs that disagree"),
        pytest.param("none", {"sh": b"#!/bin/false\n"}, "x86_64", id="a script only"),
        pytest.param("none", {}, "x86_64", id="nothing"),
        pytest.param("none", {"sh": head(258)}, "x86_64", id="an unknown machine"),
    ],
)
def test_default_architecture_is_that_of_the_root(
    machine: Machine, tmp_path: Path, kernel: str, programs: dict[str, bytes], expected: str
) -> None:
    assert planned_arch(fill(machine, kernel, **programs), tmp_path) == expected


@pytest.mark.usefixtures("x86_host")
def test_init_alone_tells_the_architecture_of_its_root(machine: Machine, tmp_path: Path) -> None:
    machine = fill(machine, "none", sh=X86, env=X86, init=ARM).replace(command=None)
    for init in ("/sbin/init", "init"):
        assert planned_arch(machine.replace(init=init), tmp_path) == "aarch64"
    assert planned_arch(machine.replace(init="/usr/sbin/busybox"), tmp_path) == "x86_64"


@pytest.mark.usefixtures("x86_host")
def test_init_that_a_share_or_a_disk_covers_is_not_looked_at(machine: Machine) -> None:
    machine = fill(machine, "none", sh=X86, init=ARM).replace(command=None, init="/usr/sbin/init")
    assert set(guest_arch.read_programs(machine).values()) == {"aarch64"}
    share = Share("s", "/usr/sbin", source="/srv")
    for covered in (machine.replace(shares=(share,)), machine.replace(overlay="/srv/disk")):
        assert set(guest_arch.read_programs(covered).values()) == {"x86_64"}


@pytest.mark.usefixtures("x86_host")
@pytest.mark.parametrize(
    ("kernel", "program", "init", "arch", "subject", "message"),
    [
        pytest.param(
            *("x86", X86, X86, "aarch64", "kernel"),
            "cannot boot the kernel {root}/usr/lib/modules/6.1/vmlinuz: it is for x86_64, and the "
            "guest is aarch64\ntry: --arch x86_64, or a kernel for aarch64: --kernel FILE|DIR",
            id="x86 kernel",
        ),
        pytest.param(
            *("arm", ARM, ARM, "x86_64", "kernel"),
            "cannot boot the kernel {root}/usr/lib/modules/6.1/vmlinuz: it is for aarch64, and the "
            "guest is x86_64\ntry: --arch aarch64, or a kernel for x86_64: --kernel FILE|DIR",
            id="arm kernel",
        ),
        pytest.param(
            *("none", X86, X86, "aarch64", "architecture"),
            "cannot run {root}/usr/bin/sh: it is for x86_64, and the guest is aarch64\n"
            "try: --arch x86_64, or a root for aarch64",
            id="x86 root",
        ),
        pytest.param(
            *("none", ARM, ARM, "x86_64", "architecture"),
            "cannot run {root}/usr/bin/sh: it is for aarch64, and the guest is x86_64\n"
            "try: --arch aarch64, or a root for x86_64",
            id="arm root",
        ),
        pytest.param(
            *("arm", ARM, X86, "", "/init"),
            "cannot use {init} as the image's /init: it is for x86_64, and the guest is aarch64\n"
            "try: make build ARCH=aarch64, or --init FILE",
            id="x86 /init and arm root",
        ),
        pytest.param(
            *("x86", X86, ARM, "", "/init"),
            "cannot use {init} as the image's /init: it is for aarch64, and the guest is x86_64\n"
            "try: make build, or --init FILE",
            id="arm /init and x86 root",
        ),
        pytest.param(
            *("x86", ARM, X86, "", "architecture"),
            "cannot run {root}/usr/bin/sh: it is for aarch64, and the guest is x86_64\n"
            "try: --arch aarch64, or a root for x86_64",
            id="x86 kernel and arm programs",
        ),
    ],
)
def test_file_for_another_architecture_is_one_sentence_and_a_finding(  # noqa: PLR0917
    machine: Machine,
    tmp_path: Path,
    kernel: str,
    program: bytes,
    init: bytes,
    arch: str,
    subject: str,
    message: str,
) -> None:
    machine = fill(machine, kernel, sh=program, env=program).replace(arch=arch)
    Path(machine.init_program).write_bytes(init)
    with pytest.raises(HostError) as caught:
        plan_launch(machine, environment(tmp_path))
    text = message.format(root=machine.root.source, init=machine.init_program)
    assert str(caught.value) == text
    findings = {one.subject: one for one in examine(machine, environment(tmp_path))}
    assert findings[subject] == missing_finding(subject, caught.value)
    assert findings[subject].state == MISSING


def test_kernel_of_32_bits_is_refused() -> None:
    kernel = launch.Kernel("6.1", "/vmlinuz", machine="i386")
    with pytest.raises(HostError, match="for i386, and the guest is x86_64") as caught:
        guest_arch.check_kernel(kernel, find_arch("x86_64"))
    assert caught.value.hint == "a kernel for x86_64: --kernel FILE|DIR"


@pytest.mark.usefixtures("x86_host")
def test_init_of_another_architecture_has_places_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "INIT_PLACES", (f"{tmp_path}/init",))
    (tmp_path / "init").write_bytes(X86)
    aarch64 = find_arch("aarch64")
    with pytest.raises(HostError, match=f"looked for at {tmp_path}/init-aarch64") as caught:
        locate.find_init("", {}, aarch64)
    assert caught.value.hint == "make build ARCH=aarch64, or --init FILE"
    (tmp_path / "init-aarch64").write_bytes(ARM)
    assert locate.find_init("", {}, aarch64) == f"{tmp_path}/init-aarch64"
    assert locate.find_init("", {}, find_arch("x86_64")) == f"{tmp_path}/init"


@pytest.mark.parametrize("kind", hostile_roots.SPECIAL)
def test_special_files_in_place_of_programs_say_nothing(tmp_path: Path, kind: str) -> None:
    for name in ("bin/sh", "usr/bin/env"):
        hostile_roots.replace(tmp_path / name, kind)
    machine = Machine(root=root_share(str(tmp_path)), command=COMMAND)
    assert guest_arch.read_programs(machine) == {}


def test_links_of_the_root_do_not_lead_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "program").write_bytes(ARM)
    (tmp_path / "root/bin/sh").symlink_to(f"{tmp_path}/program")
    (tmp_path / "root/usr").symlink_to("usr")
    machine = Machine(root=root_share(f"{tmp_path}/root"), command=COMMAND)
    assert guest_arch.read_programs(machine) == {}
