"""/init refuses to run, and changes nothing, unless the kernel of a machine has started it.

The tests start /init inside a virtual machine, as root with all capabilities, as PID 1 of a PID
namespace whose root is a tmpfs. No container looks more like an initramfs to the program.
"""

import os
import shutil

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import make_root

pytestmark = pytest.mark.boot

INSPECT = """
attempt() {
    echo; echo "=== $1"
    unshare -m sh -c '
        mount -t tmpfs none /mnt && cp /run/mnt/tools/init /mnt/init && mkdir /mnt/proc
        [ "$0" = "with proc" ] && inside="mount -t proc proc /mnt/proc"
        unshare -p -f sh -c "${inside:-:}; exec chroot /mnt /init" 2>&1
        echo "status $?"
        umount /mnt/proc 2>/dev/null
        ls -A1 /mnt; grep -c " /mnt" /proc/self/mountinfo' "$1"
}
attempt "with proc"
attempt "without proc"
echo; echo "=== version"; /run/mnt/tools/init --version
"""


@pytest.fixture(scope="module")
def boot(shared_directory: str) -> machine.Boot:
    kernel = assets.kernel("bookworm")
    root = make_root(f"{shared_directory}/root", INSPECT)
    os.mkdir(f"{shared_directory}/tools")
    shutil.copy(images.INIT, f"{shared_directory}/tools/init")
    vm = machine.Machine(
        kernel.image,
        "mount-ro=tools panic=-1 init=/probe",
        images.make(kernel, f"{shared_directory}/image"),
        (machine.Share("rootfs", root), machine.Share("tools", f"{shared_directory}/tools")),
    )
    return machine.boot(vm, shared_directory)


@pytest.mark.parametrize(
    ("section", "reason"),
    [("with proc", "/proc is mounted already"), ("without proc", "this is a container")],
)
def test_init_refuses_to_run_in_a_container_and_leaves_it_unchanged(
    boot: machine.Boot, section: str, reason: str
) -> None:
    refusal = f"initrd: {reason}; /init only runs as the first program of an initramfs"
    assert boot.section(section).splitlines() == [refusal, "status 2", "init", "proc", "1"]


def test_init_prints_its_version_outside_an_initramfs(boot: machine.Boot) -> None:
    assert boot.section("version").startswith("initrd ")
