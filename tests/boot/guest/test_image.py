"""The entries of an image that `mkvirtinitrd` makes: `/init` and the modules only."""

import pytest

from initrd.host.image import lsinitramfs
from testbed import assets
from tests.boot import images

pytestmark = pytest.mark.boot


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_an_image_holds_init_and_the_modules_and_nothing_else(suite: str, directory: str) -> None:
    image = images.make(assets.kernel(suite), f"{directory}/image", "--module", "dummy")
    with open(image, "rb") as file:
        entries = {entry.path.decode(): entry for entry in lsinitramfs.read_entries(file.read())}
    modules = {path for path in entries if path.startswith("usr/lib/modules/")}
    assert set(entries) - modules == {"init", "usr", "usr/lib", "usr/lib/modules"}
    assert all(path.endswith(".ko") for path in modules)
    assert any(path.endswith("-dummy.ko") for path in modules)
    assert entries["init"].mode == 0o100755
    with open(images.INIT, "rb") as file:
        assert entries["init"].data == file.read()
