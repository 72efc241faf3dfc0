"""Name resolution in roots of every kind, none of which is changed."""

import errno

import pytest

from initrd.guest._syscalls import MS_BIND, MS_RDONLY
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.network.resolv import ResolverSettings, write_resolver_settings
from tests.fake_kernel import Call, FakeKernel

RESOLV_CONF = "/etc/resolv.conf"
OURS = "/run/initrd/resolv.conf"
LAYER = "/run/initrd/layer"
NAMES = ResolverSettings(("10.0.2.3", "1.1.1.1"), "example.org")
TEXT = "search example.org\nnameserver 10.0.2.3\nnameserver 1.1.1.1\n"
OVERLAY = ("mount", "initrd", "/etc", "overlay", MS_RDONLY, f"lowerdir={LAYER}:/etc")
READ_ONLY: Call = ("write_file", RESOLV_CONF)


def provide(kernel: FakeKernel, names: ResolverSettings = NAMES) -> list[Call]:
    log = Log(kernel)  # type: ignore[arg-type]
    log.set_verbose(False)
    write_resolver_settings(names, kernel, log)  # type: ignore[arg-type]
    return kernel.named("write_file", "mount")


def test_over_a_file_ours_is_mounted() -> None:
    kernel = FakeKernel(files={RESOLV_CONF: "nameserver 127.0.0.1\n"})
    assert provide(kernel) == [
        ("write_file", OURS, TEXT),
        ("mount", OURS, RESOLV_CONF, "", MS_BIND, ""),
    ]


def test_a_link_to_a_file_elsewhere_is_followed() -> None:
    there = "/etc/static/resolv.conf"
    kernel = FakeKernel(files={there: ""}, links={RESOLV_CONF: there})
    assert provide(kernel)[-1] == ("mount", OURS, there, "", MS_BIND, "")


def test_where_a_link_leads_below_run_the_file_is_written_there() -> None:
    there = "/run/resolvconf/resolv.conf"
    kernel = FakeKernel(links={RESOLV_CONF: there})
    assert provide(kernel) == [("write_file", there, TEXT)]
    assert kernel.named("make_directory") == [("make_directory", "/run/resolvconf")]


def test_systemd_resolved_is_told_whom_to_ask() -> None:
    there = "/run/systemd/resolve/stub-resolv.conf"
    kernel = FakeKernel(links={RESOLV_CONF: there})
    drop_in = "[Resolve]\nDNS=10.0.2.3 1.1.1.1\nDomains=example.org\n"
    assert provide(kernel) == [
        ("write_file", there, TEXT),
        ("write_file", "/run/systemd/resolved.conf.d/initrd.conf", drop_in),
    ]


def test_in_a_root_that_can_be_written_only_an_empty_file_is_left() -> None:
    assert provide(FakeKernel()) == [
        ("write_file", OURS, TEXT),
        ("write_file", RESOLV_CONF, ""),
        ("mount", OURS, RESOLV_CONF, "", MS_BIND, ""),
    ]


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_in_a_read_only_root_without_the_file_it_is_added_by_an_overlay(error: int) -> None:
    kernel = FakeKernel(errors={READ_ONLY: error})
    assert provide(kernel)[1:] == [("write_file", f"{LAYER}/resolv.conf", TEXT), OVERLAY]
    assert kernel.said == ""


@pytest.mark.parametrize("error", [errno.ENODEV, errno.EINVAL, errno.ENOENT])
def test_where_that_is_impossible_the_boot_goes_on_with_a_warning(error: int) -> None:
    kernel = FakeKernel(errors={READ_ONLY: errno.EROFS, OVERLAY: error})
    provide(kernel)
    assert "names will not be resolved: there is no /etc/resolv.conf" in kernel.said
    assert "create an empty /etc/resolv.conf in the root, or add the module overlay" in kernel.said


@pytest.mark.parametrize(
    "broken",
    [("write_file", OURS), READ_ONLY, OVERLAY, ("mount", OURS)],
    ids=["ours", "creating", "overlay", "mount"],
)
def test_any_other_failure_ends_the_boot(broken: Call) -> None:
    errors: dict[str | Call, int] = {READ_ONLY: errno.EROFS} if broken == OVERLAY else {}
    kernel = FakeKernel(errors={**errors, broken: errno.EIO})
    with pytest.raises(BootError, match="Input/output error"):
        provide(kernel)


def test_without_name_servers_the_root_is_left_alone() -> None:
    assert provide(FakeKernel(), ResolverSettings((), "example.org", "vm")) == []


def test_without_a_domain_there_is_no_search() -> None:
    assert ResolverSettings(("1.1.1.1",)).resolv_conf() == "nameserver 1.1.1.1\n"
    assert ResolverSettings(("1.1.1.1",)).resolved_conf() == "[Resolve]\nDNS=1.1.1.1\n"
