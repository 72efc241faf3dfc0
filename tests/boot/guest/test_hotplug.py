"""Plug in a virtiofs device after the kernel is up, while /init waits for its tag."""

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import make_root, write

pytestmark = pytest.mark.boot

SUITES = ("bookworm", "trixie")


@pytest.mark.parametrize("suite", SUITES)
def test_init_waits_for_a_root_tag_that_appears_late(suite: str, directory: str) -> None:
    root = make_root(f"{directory}/root")
    boot = _boot(suite, directory, "init=/probe", (), machine.Share("rootfs", root))
    assert boot.section("pid") == "1"
    assert boot.status == 0


@pytest.mark.parametrize("suite", SUITES)
def test_init_waits_for_a_share_tag_that_appears_late(suite: str, directory: str) -> None:
    root = make_root(f"{directory}/root", "echo; echo === share; cat /run/mnt/data/hello\n")
    write(f"{directory}/data/hello", "hello from afar\n")
    shares = (machine.Share("rootfs", root),)
    late_share = machine.Share("data", f"{directory}/data")
    boot = _boot(suite, directory, "init=/probe mount-ro=data", shares, late_share)
    assert boot.section("share") == "hello from afar"
    assert boot.status == 0


def _boot(
    suite: str,
    directory: str,
    append: str,
    shares: tuple[machine.Share, ...],
    late_share: machine.Share,
) -> machine.Boot:
    """Boot, and plug in `late_share` once /init waits for its tag."""
    kernel = assets.kernel(suite)
    image = images.make(kernel, f"{directory}/image")
    vm = machine.Machine(
        kernel.image, f"debug initrd.timeout=60 panic=-1 {append}", image, shares, (late_share,)
    )
    with machine.running(vm, directory) as guest:
        guest.expect(f"waiting for the tag {late_share.tag}")
        guest.plug_share(late_share.tag)
        return guest.wait()
