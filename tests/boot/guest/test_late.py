"""A tag that is not there yet: the device is plugged in when the kernel has long been up."""

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import make_root, write

pytestmark = pytest.mark.boot

SUITES = ("bookworm", "trixie")


@pytest.mark.parametrize("suite", SUITES)
def test_a_root_that_appears_late_is_waited_for(suite: str, directory: str) -> None:
    root = make_root(f"{directory}/root")
    boot = _boot(suite, directory, "init=/probe", (), machine.Share("rootfs", root))
    assert boot.section("pid") == "1"
    assert boot.status == 0


@pytest.mark.parametrize("suite", SUITES)
def test_a_share_that_appears_late_is_waited_for(suite: str, directory: str) -> None:
    root = make_root(f"{directory}/root", "echo; echo === share; cat /run/mnt/data/hello\n")
    write(f"{directory}/data/hello", "hello from afar\n")
    shares = (machine.Share("rootfs", root),)
    late = machine.Share("data", f"{directory}/data")
    boot = _boot(suite, directory, "init=/probe mount-ro=data", shares, late)
    assert boot.section("share") == "hello from afar"
    assert boot.status == 0


def _boot(
    suite: str,
    directory: str,
    append: str,
    shares: tuple[machine.Share, ...],
    late: machine.Share,
) -> machine.Boot:
    """Boot, and plug the late share in once /init waits for it."""
    kernel = assets.kernel(suite)
    image = images.make(kernel, f"{directory}/image")
    it = machine.Machine(
        kernel.image, f"debug initrd.timeout=60 panic=-1 {append}", image, shares, (late,)
    )
    with machine.running(it, directory) as guest:
        guest.expect(f"waiting for the tag {late.tag}")
        guest.plug(late.tag)
        return guest.wait()
