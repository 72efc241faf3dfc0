"""What the target sees through /init is what the kernel itself gives, field by field.

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

# What may differ, and why. Documented in the README.
INCIDENTAL = {
    "VmHWM", "VmRSS", "RssAnon", "RssFile",  # which pages of the program were needed so far
    "VmPTE",  # how many tables map them: the random addresses decide
    "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches",  # what it waited for
}  # fmt: skip
# The kernel reckons these from the memory that is free when it starts, which the image is not.
BY_FREE_MEMORY = {"Max processes", "Max pending signals"}


@pytest.fixture(scope="module")
def plain(shared_directory: str) -> machine.Boot:
    """The kernel's own way: no initrd."""
    return _boot(shared_directory, "plain", None)


@pytest.fixture(scope="module")
def through_init(shared_directory: str) -> machine.Boot:
    image = images.make(assets.kernel("trixie"), f"{shared_directory}/image")
    return _boot(shared_directory, "init", image)


@pytest.fixture(scope="module")
def from_tmpfs(shared_directory: str) -> machine.Boot:
    """The same without `root=`: the kernel unpacks the initramfs to a tmpfs then, else a ramfs."""
    image = images.make(assets.kernel("trixie"), f"{shared_directory}/image-tmpfs")
    append = APPEND.replace("root=rootfs rootfstype=virtiofs", "rootfs=rootfs")
    return _boot(shared_directory, "tmpfs", image, append)


def _boot(directory: str, name: str, image: str | None, append: str = APPEND) -> machine.Boot:
    root = make_root(f"{directory}/{name}-root", INSPECT)
    shares = (machine.Share("rootfs", root),)
    it = machine.Machine(assets.kernel("trixie").image, append, image, shares)
    return machine.boot(it, f"{directory}/{name}")


def status(boot: machine.Boot) -> dict[str, str]:
    lines = boot.section("status").splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def limits(boot: machine.Boot) -> dict[str, str]:
    return {line[:26].strip(): line[26:].strip() for line in boot.section("limits").splitlines()}


def in_files(boot: machine.Boot) -> int:
    """Return the memory that tmpfs (Shmem) and ramfs (Unevictable) hold, in kB."""
    lines = boot.section("meminfo").splitlines()
    return sum(
        int(line.split()[1]) for line in lines if line.startswith(("Shmem:", "Unevictable:"))
    )


def test_its_status_is_the_same(plain: machine.Boot, through_init: machine.Boot) -> None:
    wanted, found = status(plain), status(through_init)
    assert wanted.pop("SigQ").partition("/")[0] == found.pop("SigQ").partition("/")[0]
    for name in INCIDENTAL:
        del wanted[name], found[name]
    assert found == wanted


def test_no_signal_is_blocked_ignored_or_pending(through_init: machine.Boot) -> None:
    names = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
    assert {status(through_init)[name] for name in names} == {"0" * 16}


def test_its_limits_are_the_same(plain: machine.Boot, through_init: machine.Boot) -> None:
    wanted, found = limits(plain), limits(through_init)
    for name in BY_FREE_MEMORY:
        del wanted[name], found[name]
    assert found == wanted


@pytest.mark.parametrize(
    "name", ["environ", "cmdline", "cwd", "root", "exe", "umask", "fd", "pid", "ids"]
)
def test_this_is_the_same(plain: machine.Boot, through_init: machine.Boot, name: str) -> None:
    assert through_init.section(name) == plain.section(name)


def test_no_more_processes_were_created(plain: machine.Boot, through_init: machine.Boot) -> None:
    # The kernel's own helpers take numbers too; a PID 1 with a parent or children would show.
    wanted, found = (int(boot.section("first child")) for boot in (plain, through_init))
    assert found <= wanted + 20


@pytest.mark.parametrize("kind", ["through_init", "from_tmpfs"])
def test_the_initramfs_is_gone(
    plain: machine.Boot, kind: str, request: pytest.FixtureRequest
) -> None:
    assert in_files(request.getfixturevalue(kind)) <= in_files(plain) + 256
