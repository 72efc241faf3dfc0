"""Boot a Debian root directory; the target is its systemd, or a Python script on a share."""

import pytest

from initrd.host.image import cpio, lsinitramfs
from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import write

pytestmark = pytest.mark.boot

SYSTEMD_APPEND = "console=ttyS0 ro panic=-1 init=/sbin/init report"
SYSTEMD_DEADLINE = 300.0  # seconds; an idle machine needs a tenth of that

# For comparison, without any program of this project: a busybox script that switches root.
BUSYBOX_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /usr/lib/modules/*.ko; do /bin/busybox insmod $module; done
/bin/busybox mkdir /new
until /bin/busybox mount -t virtiofs -o ro rootfs /new; do /bin/busybox sleep 0.1; done
/bin/busybox umount /dev
exec /bin/busybox switch_root -c /dev/console /new /sbin/init
"""

TARGET_SCRIPT = """#!/usr/bin/python3
import ctypes, os, sys
with open("/dev/ttyS1", "w") as report:
    sys.stdout = report
    print("\\n=== pid", os.getpid(), sep="\\n")
    print("\\n=== argv", *sys.argv, sep="\\n")
    print("\\n=== environ", *(f"{name}={value}" for name, value in os.environ.items()), sep="\\n")
    print("\\n=== library", os.__file__, sep="\\n", flush=True)
os.sync()
ctypes.CDLL(None).reboot(0x4321FEDC)
"""


@pytest.fixture(scope="module")
def busybox_boot(shared_directory: str) -> machine.Boot:
    """Boot the same kernel and directory without /init, with a busybox initramfs."""
    return _boot_systemd(
        f"{shared_directory}/plain", _make_busybox_image(f"{shared_directory}/old")
    )


@pytest.fixture(scope="module")
def init_boot(shared_directory: str) -> machine.Boot:
    kernel = assets.find_kernel(assets.debian_root())
    image = images.make(kernel, f"{shared_directory}/image")
    return _boot_systemd(f"{shared_directory}/init", image)


def test_systemd_reaches_multi_user_target(init_boot: machine.Boot) -> None:
    assert init_boot.section("multi-user") == "active"
    assert init_boot.section("root").split() == ["rootfs", "virtiofs"]


def test_systemd_units_fail_only_where_they_fail_with_a_busybox_initramfs(
    busybox_boot: machine.Boot, init_boot: machine.Boot
) -> None:
    assert busybox_boot.section("multi-user") == "active"
    assert _failed_units(init_boot) <= _failed_units(busybox_boot)


def test_systemd_powers_the_machine_off(init_boot: machine.Boot) -> None:
    assert init_boot.status == 0
    assert "Power down" in init_boot.console


def test_python_script_on_a_share_runs_as_the_target(directory: str) -> None:
    write(f"{directory}/share/dir/vm.py", TARGET_SCRIPT, 0o755)
    root = assets.debian_root()
    kernel = assets.find_kernel(root)
    vm = machine.Machine(
        kernel.image,
        'mount=mnt0 init=/run/mnt/mnt0/dir/vm.py other=1 panic=-1 -- "one word" two',
        images.make(kernel, f"{directory}/image"),
        (machine.Share("rootfs", root, "c"), machine.Share("mnt0", f"{directory}/share", "c")),
        plain=True,
    )
    boot = machine.boot(vm, directory)
    assert boot.section("pid") == "1"
    path = "/run/mnt/mnt0/dir/vm.py"
    assert boot.section("argv").splitlines() == [path, "one word", "two"]
    assert set(boot.section("environ").splitlines()) >= {"HOME=/", "other=1"}
    assert boot.section("library") == "/usr/lib/python3.11/os.py"
    assert boot.status == 0


def _boot_systemd(directory: str, image: str) -> machine.Boot:
    root = assets.debian_root()
    shares = (machine.Share("rootfs", root, "rust", readonly=True),)
    vm = machine.Machine(
        assets.find_kernel(root).image, SYSTEMD_APPEND, image, shares, memory="512M"
    )
    return machine.boot(vm, directory, SYSTEMD_DEADLINE)


def _make_busybox_image(path: str) -> str:
    """Make an initramfs of the traditional kind: busybox, a shell script and modules."""
    images.make(assets.find_kernel(assets.debian_root()), path)
    with open(path, "rb") as file:
        modules = [
            entry for entry in lsinitramfs.read_entries(file.read()) if entry.path.endswith(b".ko")
        ]
    with open(assets.busybox(), "rb") as file:
        busybox = cpio.file("bin/busybox", file.read(), 0o755)
    init = cpio.file("init", BUSYBOX_INIT.encode(), 0o755)
    with open(path, "wb") as file:
        file.write(cpio.pack([*modules, busybox, init, cpio.directory("dev")]))
    return path


def _failed_units(boot: machine.Boot) -> set[str]:
    return {line.split()[0] for line in boot.section("failed").splitlines()}
