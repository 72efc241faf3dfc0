"""How virtiofsd serves the shares of a launch, by the options of the boot."""

import pytest

from initrd.cmdline import parse
from initrd.host.machine.sharing import plan_sharing
from initrd.host.virtiofsd import submounts
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import Share

C = Virtiofsd("/c/virtiofsd", "c", killpriv=True)
RUST = Virtiofsd("/rust/virtiofsd", "rust", readonly=True, killpriv=True)
ROOT = Share("rootfs", writable=False, source="/")
PLAIN = ROOT.replace(source="/root")
DATA = Share("data", source="/data")
UNCONFINED = (
    "virtiofsd gets no namespaces (EPERM) and runs without a sandbox: only its own code keeps the "
    "guest in /root, /data, and a guest that takes it over has the rights of this user; try: "
)


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
    monkeypatch.setattr(submounts, "find_submounts", lambda directory: (f"{directory}dev",))
    planned = plan_sharing(RUST, (ROOT, DATA), parse(cmdline), "6.1")
    assert planned.virtiofsd.lower == lower
    assert bool(planned.submounts) == bool(lower)
    assert planned.remarks == ((planned.submounts,) if lower else ())
    assert not planned.warnings


@pytest.mark.parametrize(
    ("virtiofsd", "shares", "remark", "warnings"),
    [
        pytest.param(RUST, (PLAIN, DATA), "", (), id="rust"),
        pytest.param(
            RUST.replace(obstacle="EPERM", sandbox="chroot"),
            (PLAIN, DATA),
            "virtiofsd is in a chroot, without namespaces of its own (EPERM)",
            (),
            id="rust in a chroot",
        ),
        pytest.param(
            RUST.replace(obstacle="EPERM", sandbox="none"),
            (PLAIN, DATA),
            "",
            (UNCONFINED,),
            id="rust without a sandbox",
        ),
        pytest.param(
            RUST.replace(obstacle="EPERM", sandbox="none"), (ROOT,), "", (), id="nothing is outside"
        ),
        pytest.param(C.replace(obstacle="EPERM", sandbox="chroot"), (PLAIN, DATA), "", (), id="c"),
        pytest.param(
            C.replace(obstacle="EPERM", sandbox="chroot", unprotected=True),
            (PLAIN, DATA),
            "",
            ("root in the guest can write to /root: the host does not prevent it (",),
            id="c, unprotected",
        ),
        pytest.param(C.replace(unprotected=True), (PLAIN, DATA), "", (), id="c, protected"),
        pytest.param(RUST.replace(unprotected=True), (PLAIN, DATA), "", (), id="rust, protected"),
    ],
)
def test_a_weaker_sandbox_is_a_remark_or_a_warning(
    virtiofsd: Virtiofsd, shares: tuple[Share, ...], remark: str, warnings: tuple[str, ...]
) -> None:
    planned = plan_sharing(virtiofsd, shares, parse("rootfs=rootfs"), "6.1")
    assert "".join(planned.remarks) == remark
    assert len(planned.warnings) == len(warnings)
    assert all(map(str.startswith, planned.warnings, warnings))
