"""How virtiofsd serves the shares of a launch, by the options of the boot."""

import pytest

from initrd.cmdline import parse
from initrd.host.machine import sharing
from initrd.host.machine.sharing import plan_sharing
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import Share

RUST = Virtiofsd("/rust/virtiofsd", "rust", readonly=True, killpriv=True)
ROOT = Share("rootfs", writable=False, source="/")
DATA = Share("data", source="/")


@pytest.mark.parametrize(
    ("cmdline", "lower"),
    [
        ("rootfs=rootfs", ""),
        ("overlay_root=ram rootfs=rootfs", "rootfs"),
        ("rootfs=rootfs overlay_root=vda", "rootfs"),
        ("rootfs=rootfs initrd.bundle=/bundle", "rootfs"),
        ("root=/dev/vda overlay_root=ram", ""),
        ("root=tmpfs overlay_root=ram mount=data", ""),
    ],
)
def test_submounts_of_the_root_are_not_announced_below_an_overlay(
    monkeypatch: pytest.MonkeyPatch, cmdline: str, lower: str
) -> None:
    monkeypatch.setattr(sharing, "find_submounts", lambda directory: (f"{directory}dev",))
    planned = plan_sharing(RUST, (ROOT, DATA), parse(cmdline), "6.1")
    assert planned.virtiofsd.lower == lower
    assert bool(planned.submounts) == bool(lower)
    assert planned.remarks == ((planned.submounts,) if lower else ())
