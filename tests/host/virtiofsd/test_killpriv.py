"""Which kernels a virtiofsd asks for killpriv_v2, and what is said where it does not."""

import pytest

from initrd.host.virtiofsd.killpriv import (
    adapt_killpriv,
    explain_missing_killpriv,
    parse_version,
)
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import Share

C = Virtiofsd("/c/virtiofsd", "c", killpriv=True)
RUST = Virtiofsd("/rust/virtiofsd", "rust", readonly=True, killpriv=True)
WRITABLE = Share("data", source="/srv")
READ_ONLY = WRITABLE.replace(writable=False)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("5.10.0-40-cloud-amd64", (5, 10)),
        ("6.1-rc3", (6, 1)),
        ("6.12.57+deb13-amd64", (6, 12)),
        ("5.11", (5, 11)),
        ("4.18.0-553.el8_10.x86_64", (4, 18)),
        ("", None),
        ("Image", None),
        ("6", None),
        ("6.x", None),
        ("v6.1", None),
        ("6.²", None),
        ("9" * 5000 + ".1", None),
    ],
)
def test_version_is_read_from_the_release(release: str, version: tuple[int, int] | None) -> None:
    assert parse_version(release) == version


@pytest.mark.parametrize(
    ("virtiofsd", "release", "expected"),
    [
        pytest.param(C, "6.1.0-9-amd64", True, id="c, new kernel"),
        pytest.param(C, "5.11.0-rc1", True, id="c, first kernel"),
        pytest.param(C, "5.10.0-40-cloud-amd64", False, id="c, old kernel"),
        pytest.param(C, "", False, id="c, unknown kernel"),
        pytest.param(C.replace(killpriv=False), "6.1", False, id="c without it"),
        pytest.param(RUST, "6.1.0-9-amd64", True, id="rust, new kernel"),
        pytest.param(RUST, "5.10.0-40-cloud-amd64", False, id="rust, old kernel"),
        pytest.param(RUST, "", True, id="rust, unknown kernel"),
        pytest.param(RUST.replace(killpriv=False), "", False, id="rust without it"),
    ],
)
def test_only_a_kernel_that_has_killpriv_is_asked_for_it(
    virtiofsd: Virtiofsd, release: str, expected: bool
) -> None:
    assert adapt_killpriv(virtiofsd, release) == virtiofsd.replace(killpriv=expected)


@pytest.mark.parametrize(
    ("virtiofsd", "release", "shares", "why"),
    [
        (C, "5.10.1", (READ_ONLY, WRITABLE), "the guest's kernel is 5.10.1, and 5.11 is needed"),
        (C, "", (WRITABLE,), "the version of the guest's kernel is not known, and 5.11 is needed"),
        (C.replace(killpriv=False), "6.1", (WRITABLE,), "/c/virtiofsd has no option for it"),
        (C, "5.10.1", (READ_ONLY,), ""),
        (C, "6.1", (WRITABLE,), ""),
        (RUST, "", (WRITABLE,), ""),
    ],
)
def test_kept_setuid_bits_are_explained(
    virtiofsd: Virtiofsd, release: str, shares: tuple[Share, ...], why: str
) -> None:
    text = explain_missing_killpriv(adapt_killpriv(virtiofsd, release), shares, release)
    assert text.rpartition(": ")[2] == why
