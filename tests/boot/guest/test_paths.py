"""Where a share can be mounted, in a root that can be written to."""

import os

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import make_root, write

pytestmark = pytest.mark.boot

PATHS = {
    "one": "/new/of/several/",  # made, whatever it ends with
    "two": "/link/inside",  # an absolute link, which leads into the new root
    "three": "/new/of/several/below",  # below another share
    "four": "/dev/shares/four",  # a mount of ours
}
SCRIPT = """
for path in /new/of/several /target/inside /new/of/several/below /dev/shares/four; do
    echo; echo "=== $path"; cat "$path/hello"
done
"""


@pytest.fixture(scope="module")
def boot(shared_directory: str) -> machine.Boot:
    kernel = assets.kernel("bookworm")
    root = make_root(f"{shared_directory}/root", SCRIPT)
    os.makedirs(f"{root}/target/inside")
    os.symlink("/target", f"{root}/link")
    for tag in PATHS:
        write(f"{shared_directory}/{tag}/hello", f"hello from {tag}\n")
    tags = (machine.Share(tag, f"{shared_directory}/{tag}") for tag in PATHS)
    words = " ".join(f"mount={tag}:{path}" for tag, path in PATHS.items())
    it = machine.Machine(
        kernel.image,
        f"rw {words} panic=-1 init=/probe",
        images.make(kernel, f"{shared_directory}/image"),
        (machine.Share("rootfs", root), *tags),
    )
    return machine.boot(it, shared_directory)


@pytest.mark.parametrize(
    ("tag", "path"),
    [
        ("one", "/new/of/several"),
        ("two", "/target/inside"),
        ("three", "/new/of/several/below"),
        ("four", "/dev/shares/four"),
    ],
)
def test_a_share_is_mounted_at_its_path(boot: machine.Boot, tag: str, path: str) -> None:
    assert boot.section(path) == f"hello from {tag}"


def test_directories_are_made_on_the_host_for_it(boot: machine.Boot, shared_directory: str) -> None:
    assert boot.status == 0
    assert os.listdir(f"{shared_directory}/root/new/of/several") == []
