"""Compare the target process after /init with the one that the kernel starts directly.

Debian 13's kernel has virtiofs built in: it boots the same directory, with the same command line,
once without any initrd and once through /init.
"""

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import make_root

pytestmark = pytest.mark.boot

APPEND = (
    'root=rootfs rootfstype=virtiofs ro panic=-1 quiet other=1 LD_LIBRARY_PATH=/x "q q=z  z" '
    'LC_CTYPE=C Other=\udcff other="2 3" init=/probe -- a \'b c\' "" --version "\xe0 \udcfe" '
    '-x=" y"'
)
INSPECT = """
echo; echo "=== meminfo"; cat /proc/meminfo
echo; echo "=== end"
"""

# Fields of /proc/PID/status that may differ, and why. Documented in the README.
VARYING_STATUS_FIELDS = {
    "VmHWM", "VmRSS", "RssAnon", "RssFile",  # which pages of the program were used so far
    "VmPTE",  # page tables that map them: depends on address randomization
    "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches",  # how often it waited or was preempted
}  # fmt: skip
# The kernel computes these from the memory that is free at its start; the image takes some.
VARYING_LIMITS = {"Max processes", "Max pending signals"}


@pytest.fixture(scope="module")
def boot_without_initrd(shared_directory: str) -> machine.Boot:
    """Boot without an initrd: the kernel mounts the root and starts the target."""
    return _boot(shared_directory, "plain", None)


@pytest.fixture(scope="module")
def boot_through_init(shared_directory: str) -> machine.Boot:
    image = images.make(assets.kernel("trixie"), f"{shared_directory}/image")
    return _boot(shared_directory, "init", image)


@pytest.fixture(scope="module")
def boot_from_tmpfs(shared_directory: str) -> machine.Boot:
    """Boot through /init without `root=`: the kernel unpacks to a tmpfs then, else to a ramfs."""
    image = images.make(assets.kernel("trixie"), f"{shared_directory}/image-tmpfs")
    append = APPEND.replace("root=rootfs rootfstype=virtiofs", "rootfs=rootfs")
    return _boot(shared_directory, "tmpfs", image, append)


def _boot(directory: str, name: str, image: str | None, append: str = APPEND) -> machine.Boot:
    root = make_root(f"{directory}/{name}-root", INSPECT)
    shares = (machine.Share("rootfs", root),)
    vm = machine.Machine(assets.kernel("trixie").image, append, image, shares)
    return machine.boot(vm, f"{directory}/{name}")


def parse_status(boot: machine.Boot) -> dict[str, str]:
    lines = boot.section("status").splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def parse_limits(boot: machine.Boot) -> dict[str, str]:
    return {line[:26].strip(): line[26:].strip() for line in boot.section("limits").splitlines()}


def memory_in_files(boot: machine.Boot) -> int:
    """Return the memory that tmpfs (Shmem) and ramfs (Unevictable) hold, in kB."""
    lines = boot.section("meminfo").splitlines()
    return sum(
        int(line.split()[1]) for line in lines if line.startswith(("Shmem:", "Unevictable:"))
    )


def test_target_status_equals_that_of_a_boot_without_initrd(
    boot_without_initrd: machine.Boot, boot_through_init: machine.Boot
) -> None:
    expected, found = parse_status(boot_without_initrd), parse_status(boot_through_init)
    assert expected.pop("SigQ").partition("/")[0] == found.pop("SigQ").partition("/")[0]
    for name in VARYING_STATUS_FIELDS:
        del expected[name], found[name]
    assert found == expected


def test_target_has_no_signal_blocked_ignored_caught_or_pending(
    boot_through_init: machine.Boot,
) -> None:
    names = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
    assert {parse_status(boot_through_init)[name] for name in names} == {"0" * 16}


def test_target_limits_equal_those_of_a_boot_without_initrd(
    boot_without_initrd: machine.Boot, boot_through_init: machine.Boot
) -> None:
    expected, found = parse_limits(boot_without_initrd), parse_limits(boot_through_init)
    for name in VARYING_LIMITS:
        del expected[name], found[name]
    assert found == expected


@pytest.mark.parametrize(
    "name", ["environ", "cmdline", "cwd", "root", "exe", "umask", "fd", "pid", "ids"]
)
def test_target_property_equals_that_of_a_boot_without_initrd(
    boot_without_initrd: machine.Boot, boot_through_init: machine.Boot, name: str
) -> None:
    assert boot_through_init.section(name) == boot_without_initrd.section(name)


def test_first_child_pid_is_close_to_that_of_a_boot_without_initrd(
    boot_without_initrd: machine.Boot, boot_through_init: machine.Boot
) -> None:
    # Kernel helpers take PIDs too, hence the margin. A parent or children of PID 1 would show.
    expected, found = (
        int(boot.section("first child")) for boot in (boot_without_initrd, boot_through_init)
    )
    assert found <= expected + 20


@pytest.mark.parametrize("boot_fixture", ["boot_through_init", "boot_from_tmpfs"])
def test_initramfs_memory_is_freed(
    boot_without_initrd: machine.Boot, boot_fixture: str, request: pytest.FixtureRequest
) -> None:
    assert (
        memory_in_files(request.getfixturevalue(boot_fixture))
        <= memory_in_files(boot_without_initrd) + 256
    )
