"""The key of a template: what changes it, and what does not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from initrd.command import Command
from initrd.host.image.build import open_boot_image
from initrd.host.machine.launch import Launch
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Disk, PublishedPort
from initrd.host.system.cached import Cache
from initrd.host.system.files import OpenFile
from initrd.host.template import key
from initrd.host.template.key import template_key
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import Share

CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Some CPU @ 2.00GHz
stepping\t: 7
microcode\t: 0x5003604
cpu MHz\t\t: 2000.168
flags\t\t: fpu vme de
bogomips\t: 4000.33

processor\t: 1
vendor_id\t: GenuineIntel
cpu MHz\t\t: 1999.000
"""
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Host:
    """The files of /proc that a key has."""

    def __init__(self) -> None:
        self.files = {BOOT_ID: "boot-1\n", "/proc/cpuinfo": CPUINFO}

    def read(self, path: str) -> str:
        return self.files[path]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(key, "_read", host.read)
    return host


def with_setup(**changes: object) -> Callable[[Launch], Launch]:
    return lambda launch: launch.replace(setup=launch.setup.replace(**changes))


def with_hardware(**changes: object) -> Callable[[Launch], Launch]:
    def change(launch: Launch) -> Launch:
        hardware = launch.setup.hardware.replace(**changes)
        return launch.replace(setup=launch.setup.replace(hardware=hardware))

    return change


def with_warm(**changes: object) -> Callable[[Launch], Launch]:
    def change(launch: Launch) -> Launch:
        assert launch.warm is not None
        return launch.replace(warm=launch.warm.replace(**changes))

    return change


DEPENDENCIES = {
    "QEMU": with_setup(program="/bin/true"),
    "firmware": with_setup(firmware="/bin/true"),
    "kernel": lambda launch: launch.replace(kernel="/bin/true"),
    "uncompressed kernel": with_setup(kernel=OpenFile("vmlinux", 0)),
    "image": with_setup(initrd=OpenFile("/cache/images/another.img", 0)),
    "command line of the template": with_warm(cmdline="console=ttyS0 quiet debug"),
    "memory": with_hardware(memory=2 << 20),
    "processors": with_hardware(cpus=2),
    "accelerator": with_hardware(accelerator="kvm"),
    "machine": with_hardware(machine="pc"),
    "architecture": with_hardware(arch=find_arch("aarch64")),
    "number of shares": with_setup(shares=(Share("a"),)),
    "number of disks": with_setup(disks=(Disk("/disk"),)),
    "network": with_setup(network=False),
}


@pytest.mark.parametrize("name", DEPENDENCIES)
def test_key_depends_on(launch: Launch, host: Host, name: str) -> None:
    assert template_key(DEPENDENCIES[name](launch)) != template_key(launch)


def test_share_is_no_disk_and_no_network(launch: Launch, host: Host) -> None:
    keys = {
        template_key(with_setup(**changes)(launch))
        for changes in (
            {"network": True},
            {"network": False, "disks": (Disk("/a"),)},
            {"network": False, "shares": (Share("a"),)},
        )
    }
    assert len(keys) == 3


NO_DEPENDENCIES = {
    "command": lambda launch: launch.replace(command=Command((b"other",), (b"A=b",), cwd=b"/x")),
    "command line of the machine": with_setup(cmdline="init=/other"),
    "address of the network device": with_setup(mac="52:54:00:99:99:99"),
    "published ports": with_setup(published=(PublishedPort("127.0.0.1", 8080, 80),)),
    "generation": with_setup(generation="10000000-0000-0000-0000-000000000000"),
    "ports": with_setup(ports=("initrd.control",)),
    "virtiofsd": lambda launch: launch.replace(virtiofsd=Virtiofsd("/other", "rust")),
    "logs": lambda launch: launch.replace(logs="/other"),
    "limit": with_warm(limit=1),
    "directory of the templates": with_warm(folder="/other"),
}


@pytest.mark.parametrize("name", NO_DEPENDENCIES)
def test_key_does_not_depend_on(launch: Launch, host: Host, name: str) -> None:
    assert template_key(NO_DEPENDENCIES[name](launch)) == template_key(launch)


def test_key_does_not_depend_on_shares_and_disks_but_for_their_number(
    launch: Launch, host: Host
) -> None:
    one = with_setup(shares=(Share("a", source="/a"),), disks=(Disk("/disk"),))(launch)
    other = with_setup(
        shares=(Share("b", "/mnt", writable=False, source="/b"),),
        disks=(Disk("/other", writable=False),),
    )(launch)
    assert template_key(one) == template_key(other)


def test_key_does_not_depend_on_the_environment(
    launch: Launch, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = template_key(launch)
    monkeypatch.setenv("HOME", "/other")
    monkeypatch.setenv("PATH", "/other")
    assert template_key(launch) == first


@pytest.mark.parametrize("field", ["program", "firmware", "kernel"])
def test_changed_file_changes_the_key(
    launch: Launch, host: Host, tmp_path: Path, field: str
) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    launch = (
        launch.replace(kernel=str(path))
        if field == "kernel"
        else with_setup(**{field: str(path)})(launch)
    )
    first = template_key(launch)
    assert template_key(launch) == first
    path.write_text("two")
    os.utime(path, ns=(0, 0))
    second = template_key(launch)
    assert second != first
    path.unlink()
    assert template_key(launch) not in (first, second)


def test_boot_of_the_host_changes_the_key(launch: Launch, host: Host) -> None:
    first = template_key(launch)
    host.files[BOOT_ID] = "boot-2\n"
    assert template_key(launch) != first


def test_version_of_this_program_and_of_the_format_change_the_key(
    launch: Launch, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {template_key(launch)}
    monkeypatch.setattr(key, "__version__", "0.0.0")
    keys.add(template_key(launch))
    monkeypatch.setattr(key, "_FORMAT", 0)
    keys.add(template_key(launch))
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("GenuineIntel", "AuthenticAMD", True),
        ("fpu vme", "fpu", True),
        ("0x5003604", "0x5003605", True),
        ("stepping\t: 7", "stepping\t: 8", True),
        ("2000.168", "800.000", False),
        ("4000.33", "4000.34", False),
        ("1999.000", "800.000", False),
    ],
)
def test_with_kvm_the_processor_changes_the_key(
    launch: Launch, host: Host, old: str, new: str, differs: bool
) -> None:
    kvm = with_hardware(accelerator="kvm")(launch)
    emulated, real = template_key(launch), template_key(kvm)
    host.files["/proc/cpuinfo"] = CPUINFO.replace(old, new)
    assert (template_key(kvm) != real) is differs
    assert template_key(launch) == emulated


def test_with_kvm_the_kernel_of_the_host_changes_the_key(
    launch: Launch, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvm = with_hardware(accelerator="kvm")(launch)
    emulated, real = template_key(launch), template_key(kvm)
    names = list(os.uname())
    names[2] = "9.9.9"
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(names))
    assert template_key(kvm) != real
    assert template_key(launch) == emulated


def test_key_is_found_on_this_host(launch: Launch) -> None:
    kvm = with_hardware(accelerator="kvm")(launch)
    assert template_key(launch) == template_key(launch)
    assert os.uname().release in template_key(kvm)


def test_host_without_proc_has_a_key(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    real = key._read
    monkeypatch.setattr(key, "_read", lambda path: real(f"/nowhere{path}"))
    assert template_key(with_hardware(accelerator="kvm")(launch))


def open_image(tmp_path: Path, cache: str, content: bytes = b"\x7fELF program") -> OpenFile:
    init = tmp_path / "init"
    init.write_bytes(content)
    os.utime(init, (0, 0))
    with Cache(cache) as opened:
        return open_boot_image(str(init), "", (), opened)


def test_image_in_the_cache_and_in_memory_have_the_same_identity(
    launch: Launch, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = open_image(tmp_path, "/proc/nowhere")
    assert in_memory.path == "initrd.img"
    monkeypatch.setattr("initrd.host.system.cached._RECENT", -1e9)  # what is new is cached, too
    in_cache = open_image(tmp_path, str(tmp_path / "cache"))
    assert in_cache.path.startswith(f"{tmp_path}/cache/images/")
    keys = {template_key(with_setup(initrd=image)(launch)) for image in (in_memory, in_cache)}
    os.unlink(in_cache.path)  # another process has removed it from the cache meanwhile
    removed = OpenFile("initrd.img", in_cache.descriptor)
    keys.add(template_key(with_setup(initrd=removed)(launch)))
    assert len(keys) == 1
    for image in (in_memory, in_cache):
        os.close(image.descriptor)


def test_image_with_another_program_has_another_identity(
    launch: Launch, host: Host, tmp_path: Path
) -> None:
    images = [
        open_image(tmp_path, "/proc/nowhere", b"\x7fELF program %d" % number) for number in (1, 2)
    ]
    keys = {template_key(with_setup(initrd=image)(launch)) for image in images}
    assert len(keys) == 2
    for image in images:
        os.close(image.descriptor)


def test_reading_the_identity_does_not_move_the_position_in_the_image(
    launch: Launch, host: Host, tmp_path: Path
) -> None:
    image = open_image(tmp_path, "/proc/nowhere")
    os.lseek(image.descriptor, 3, os.SEEK_SET)
    template_key(with_setup(initrd=image)(launch))
    assert os.lseek(image.descriptor, 0, os.SEEK_CUR) == 3
    os.close(image.descriptor)


def test_key_is_printable_text_of_lines(launch: Launch, host: Host) -> None:
    text = template_key(launch.replace(kernel="/a\nb\udcff"))
    assert all(line.isprintable() for line in text.split("\n"))


def test_launch_without_a_template_has_no_key(launch: Launch) -> None:
    with pytest.raises(ValueError, match="without a template"):
        template_key(launch.replace(warm=None))
