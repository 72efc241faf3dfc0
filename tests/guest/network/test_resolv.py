"""Providing resolv.conf in each kind of root without changing a file of the root."""

import errno

import pytest

from initrd.guest._syscalls import MS_BIND, MS_RDONLY
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.network.resolv import ResolverSettings, write_resolver_settings
from tests.fake_kernel import Call, FakeKernel

RESOLV_CONF = "/etc/resolv.conf"
GENERATED = "/run/initrd/resolv.conf"
LAYER = "/run/initrd/layer"
SETTINGS = ResolverSettings(("10.0.2.3", "1.1.1.1"), "example.org")
TEXT = "search example.org\nnameserver 10.0.2.3\nnameserver 1.1.1.1\n"
MOUNT_OVERLAY = ("mount", "initrd", "/etc", "overlay", MS_RDONLY, f"lowerdir={LAYER}:/etc")
CREATE_RESOLV_CONF: Call = ("write_file", RESOLV_CONF)


def write_and_record(kernel: FakeKernel, settings: ResolverSettings = SETTINGS) -> list[Call]:
    """Write the settings; return the calls that wrote a file or mounted."""
    log = Log(kernel)  # type: ignore[arg-type]
    log.set_verbose(False)
    write_resolver_settings(settings, kernel, log)  # type: ignore[arg-type]
    return kernel.calls_named("write_file", "mount")


def test_generated_file_is_mounted_over_resolv_conf() -> None:
    kernel = FakeKernel(files={RESOLV_CONF: "nameserver 127.0.0.1\n"})
    assert write_and_record(kernel) == [
        ("write_file", GENERATED, TEXT),
        ("mount", GENERATED, RESOLV_CONF, "", MS_BIND, ""),
    ]


def test_generated_file_is_mounted_over_the_target_of_a_link() -> None:
    target = "/etc/static/resolv.conf"
    kernel = FakeKernel(files={target: ""}, links={RESOLV_CONF: target})
    assert write_and_record(kernel)[-1] == ("mount", GENERATED, target, "", MS_BIND, "")


def test_resolv_conf_is_written_to_the_target_of_a_link_below_run() -> None:
    target = "/run/resolvconf/resolv.conf"
    kernel = FakeKernel(links={RESOLV_CONF: target})
    assert write_and_record(kernel) == [("write_file", target, TEXT)]
    assert kernel.calls_named("make_directory") == [("make_directory", "/run/resolvconf")]


def test_systemd_resolved_gets_the_name_servers_in_a_drop_in() -> None:
    target = "/run/systemd/resolve/stub-resolv.conf"
    kernel = FakeKernel(links={RESOLV_CONF: target})
    drop_in = "[Resolve]\nDNS=10.0.2.3 1.1.1.1\nDomains=example.org\n"
    assert write_and_record(kernel) == [
        ("write_file", target, TEXT),
        ("write_file", "/run/systemd/resolved.conf.d/initrd.conf", drop_in),
    ]


def test_writable_root_gets_an_empty_resolv_conf_as_mount_point() -> None:
    assert write_and_record(FakeKernel()) == [
        ("write_file", GENERATED, TEXT),
        ("write_file", RESOLV_CONF, ""),
        ("mount", GENERATED, RESOLV_CONF, "", MS_BIND, ""),
    ]


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_overlayfs_adds_a_missing_resolv_conf_to_a_read_only_root(error: int) -> None:
    kernel = FakeKernel(errors={CREATE_RESOLV_CONF: error})
    assert write_and_record(kernel)[1:] == [
        ("write_file", f"{LAYER}/resolv.conf", TEXT),
        MOUNT_OVERLAY,
    ]
    assert kernel.output == ""


@pytest.mark.parametrize("error", [errno.ENODEV, errno.EINVAL, errno.ENOENT])
def test_boot_continues_with_a_warning_when_overlayfs_is_impossible(error: int) -> None:
    kernel = FakeKernel(errors={CREATE_RESOLV_CONF: errno.EROFS, MOUNT_OVERLAY: error})
    write_and_record(kernel)
    assert "names will not be resolved: there is no /etc/resolv.conf" in kernel.output
    assert (
        "create an empty /etc/resolv.conf in the root, or add the module overlay" in kernel.output
    )


@pytest.mark.parametrize(
    "failing_call",
    [("write_file", GENERATED), CREATE_RESOLV_CONF, MOUNT_OVERLAY, ("mount", GENERATED)],
    ids=["generated file", "empty file", "overlay", "mount"],
)
def test_unexpected_error_fails_the_boot(failing_call: Call) -> None:
    errors: dict[str | Call, int] = (
        {CREATE_RESOLV_CONF: errno.EROFS} if failing_call == MOUNT_OVERLAY else {}
    )
    kernel = FakeKernel(errors={**errors, failing_call: errno.EIO})
    with pytest.raises(BootError, match="Input/output error"):
        write_and_record(kernel)


def test_settings_without_name_servers_write_no_file() -> None:
    assert write_and_record(FakeKernel(), ResolverSettings((), "example.org", "vm")) == []


def test_settings_without_a_domain_have_no_search_line() -> None:
    assert ResolverSettings(("1.1.1.1",)).resolv_conf() == "nameserver 1.1.1.1\n"
    assert ResolverSettings(("1.1.1.1",)).resolved_conf() == "[Resolve]\nDNS=1.1.1.1\n"
