"""Mount shares at several kinds of paths in a writable root."""

import os

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import make_root, write

pytestmark = pytest.mark.boot

PATHS = {
    "one": "/new/of/several/",  # missing directories are made; a trailing slash is allowed
    "two": "/link/inside",  # an absolute symlink, resolved in the new root
    "three": "/new/of/several/below",  # below another share
    "four": "/dev/shares/four",  # below a file system that /init mounts
}
INSPECT = """
for path in /new/of/several /target/inside /new/of/several/below /dev/shares/four; do
    echo; echo "=== $path"; cat "$path/hello"
done
"""


@pytest.fixture(scope="module")
def boot(shared_directory: str) -> machine.Boot:
    kernel = assets.kernel("bookworm")
    root = make_root(f"{shared_directory}/root", INSPECT)
    os.makedirs(f"{root}/target/inside")
    os.symlink("/target", f"{root}/link")
    for tag in PATHS:
        write(f"{shared_directory}/{tag}/hello", f"hello from {tag}\n")
    tagged_shares = (machine.Share(tag, f"{shared_directory}/{tag}") for tag in PATHS)
    options = " ".join(f"mount={tag}:{path}" for tag, path in PATHS.items())
    vm = machine.Machine(
        kernel.image,
        f"rw {options} panic=-1 init=/probe",
        images.make(kernel, f"{shared_directory}/image"),
        (machine.Share("rootfs", root), *tagged_shares),
    )
    return machine.boot(vm, shared_directory)


@pytest.mark.parametrize(
    ("tag", "path"),
    [
        ("one", "/new/of/several"),
        ("two", "/target/inside"),
        ("three", "/new/of/several/below"),
        ("four", "/dev/shares/four"),
    ],
)
def test_share_is_mounted_at_its_path(boot: machine.Boot, tag: str, path: str) -> None:
    assert boot.section(path) == f"hello from {tag}"


def test_missing_directories_of_a_mount_point_are_made_on_the_host(
    boot: machine.Boot, shared_directory: str
) -> None:
    assert boot.status == 0
    assert os.listdir(f"{shared_directory}/root/new/of/several") == []
