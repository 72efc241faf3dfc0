"""Started anywhere but by the kernel of a machine, /init refuses, and touches nothing.

Tried as root with all its powers, inside a virtual machine: as PID 1 of a PID namespace, whose root
is a tmpfs, which is all that an initramfs and a container can look like to the program itself.
"""

import os
import shutil

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import make_root

pytestmark = pytest.mark.boot

SCRIPT = """
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
    root = make_root(f"{shared_directory}/root", SCRIPT)
    os.mkdir(f"{shared_directory}/tools")
    shutil.copy(images.INIT, f"{shared_directory}/tools/init")
    it = machine.Machine(
        kernel.image,
        "mount-ro=tools panic=-1 init=/probe",
        images.make(kernel, f"{shared_directory}/image"),
        (machine.Share("rootfs", root), machine.Share("tools", f"{shared_directory}/tools")),
    )
    return machine.boot(it, shared_directory)


@pytest.mark.parametrize(
    ("where", "why"),
    [("with proc", "/proc is mounted already"), ("without proc", "this is a container")],
)
def test_it_refuses_in_a_container_and_leaves_it_as_it_was(
    boot: machine.Boot, where: str, why: str
) -> None:
    refusal = f"initrd: {why}; /init only runs as the first program of an initramfs"
    assert boot.section(where).splitlines() == [refusal, "status 2", "init", "proc", "1"]


def test_it_tells_its_version_anywhere(boot: machine.Boot) -> None:
    assert boot.section("version").startswith("initrd ")
