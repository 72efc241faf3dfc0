"""Kernels, root directories and programs that boots need, from Debian's packages.

Each is made when it is first asked for, in $CACHE, and then shared by every checkout, test and
worker. Nobody sees half of one: it is made under another name, below a lock, and then renamed. Its
name holds a digest of its recipe, so a changed recipe makes a new one. They are not to be written
to: what wants to change a root directory takes a copy of its own.
"""

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

RECIPE = "2"  # count it up when the way in which these are made changes
ARCHITECTURE = "amd64"
KERNEL_PACKAGE = f"linux-image-cloud-{ARCHITECTURE}"
C_VIRTIOFSD = "/usr/lib/qemu/virtiofsd"

# What the tests use inside a Debian root; the others come along as its dependencies.
DEBIAN_PACKAGES = (
    KERNEL_PACKAGE,
    "crun",
    "dbus",
    "fuse-overlayfs",
    "iproute2",
    "kmod",
    "procps",
    "python3",
    "systemd-sysv",
    "unionfs-fuse",
)
BUSYBOX_DIRECTORIES = ("bin", "dev", "etc", "mnt", "proc", "root", "run", "sbin", "sys", "tmp")
APPLETS_ELSEWHERE = ("sbin/init", "sbin/poweroff", "usr/bin/env")
PROBE_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.c")
USR_MERGED = ("bin", "lib", "lib64", "sbin")

# A program of another release needs that release's C library.
THROUGH_ITS_OWN_LOADER = """#!/bin/sh
top=$(dirname "$(readlink -f "$0")")
libraries=$top/lib/x86_64-linux-gnu:$top/usr/lib/x86_64-linux-gnu
exec "$top/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" "$top/usr/{}" "$@"
"""

REPORT_UNIT = """[Unit]
Description=Report on the units, then power off
ConditionKernelCommandLine=report

[Service]
StandardOutput=tty
TTYPath=/dev/ttyS1
ExecStart=/bin/sh -c ' \\
    state=$(systemctl is-system-running --wait); echo; echo "=== state"; echo "$state"; \\
    echo; echo "=== multi-user"; systemctl is-active multi-user.target; \\
    echo; echo "=== failed"; systemctl list-units --failed --plain --no-legend --no-pager; \\
    echo; echo "=== root"; findmnt --noheadings --output SOURCE,FSTYPE /; \\
    systemctl poweroff'
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel of a distribution, unpacked."""

    suite: str
    version: str
    image: str  # path of vmlinuz
    modules: str  # its directory below lib/modules


def cache() -> str:
    """Return the directory of everything that is made here."""
    path = os.path.abspath(os.environ.get("CACHE") or "build/cache")
    os.makedirs(path, exist_ok=True)
    return path


def kernel(suite: str) -> Kernel:
    """Return the cloud kernel of `bookworm` (all in modules) or `trixie` (virtiofs built in)."""
    top = {"bookworm": _bookworm, "trixie": _trixie}[suite]()
    return kernel_in(top, suite)


def kernel_in(top: str, suite: str = "") -> Kernel:
    """Return the kernel that a root directory holds."""
    (image,) = glob.glob(f"{top}/boot/vmlinuz-*")
    version = os.path.basename(image).removeprefix("vmlinuz-")
    return Kernel(suite, version, image, f"{top}/lib/modules/{version}")


def busybox() -> str:
    """Return the path of a static busybox."""
    return f"{_bookworm()}/bin/busybox"


def busybox_root() -> str:
    """Return a root directory with busybox and Debian 12's kernel."""
    return made("busybox", _make_busybox_root_with_kernel, os.path.basename(_bookworm()))


def debian_root() -> str:
    """Return a Debian 12 root directory with systemd, Python and a kernel.

    Booted with the word `report` on the kernel command line, systemd reports on its units to the
    second serial port and powers off.
    """
    packages = ",".join(DEBIAN_PACKAGES)

    def make(top: str) -> None:
        _directory("bookworm", top, "--variant=minbase", f"--include={packages}")
        os.mkdir(f"{top}/var/lib/systemd/linger")  # logind makes it, but the root is read-only
        units = f"{top}/etc/systemd/system"
        os.makedirs(f"{units}/multi-user.target.wants", exist_ok=True)
        _write(f"{units}/report.service", REPORT_UNIT)
        os.symlink("../report.service", f"{units}/multi-user.target.wants/report.service")

    return made("debian", make, packages, REPORT_UNIT)


def c_virtiofsd() -> str:
    """Return the path of the C virtiofsd, which QEMU had up to version 7."""
    if _exists(C_VIRTIOFSD):
        return C_VIRTIOFSD
    return f"{_packages('bookworm', 'qemu-system-common')}/virtiofsd"


def rust_virtiofsd() -> str:
    """Return the path of the Rust virtiofsd of Debian 13."""
    return f"{_trixie()}/virtiofsd"


def probe() -> str:
    """Return the path of the static program that reports how it was started."""
    with open(PROBE_SOURCE, encoding="utf-8") as file:
        source = file.read()

    def make(top: str) -> None:
        command = ["cc", "-O1", "-Wall", "-Wextra", "-static", PROBE_SOURCE, "-o", f"{top}/probe"]
        subprocess.run(command, check=True)

    return f"{made('probe', make, source)}/probe"


def make_busybox_root(top: str) -> None:
    """Fill the directory `top` with a small system: busybox and the links to it."""
    for name in BUSYBOX_DIRECTORIES:
        os.makedirs(f"{top}/{name}", exist_ok=True)
    os.chmod(f"{top}/tmp", 0o1777)
    shutil.copy(busybox(), f"{top}/bin/busybox")
    listed = subprocess.run([busybox(), "--list"], check=True, capture_output=True, text=True)
    for applet in set(listed.stdout.split()) - {"busybox"}:
        os.symlink("busybox", f"{top}/bin/{applet}")
    for path in APPLETS_ELSEWHERE:
        os.makedirs(os.path.dirname(f"{top}/{path}"), exist_ok=True)
        os.symlink("/bin/busybox", f"{top}/{path}")


def add_kernel(kernel: Kernel, top: str) -> None:
    """Put a kernel into the root directory `top`; its files are linked, not copied."""
    modules = f"{top}/lib/modules/{kernel.version}"
    shutil.copytree(kernel.modules, modules, symlinks=True, copy_function=_link)
    os.makedirs(f"{top}/boot", exist_ok=True)
    _link(kernel.image, f"{top}/boot/vmlinuz-{kernel.version}")


def _make_busybox_root_with_kernel(top: str) -> None:
    make_busybox_root(top)
    add_kernel(kernel("bookworm"), top)


def _bookworm() -> str:
    return _packages("bookworm", KERNEL_PACKAGE, "busybox-static")


def _trixie() -> str:
    return _packages("trixie", KERNEL_PACKAGE, "virtiofsd")


def _packages(suite: str, *packages: str) -> str:
    """Return a directory with packages unpacked, and not set up."""

    def make(top: str) -> None:
        _directory(suite, top, "--variant=extract", f"--include={','.join(packages)}")
        for name in USR_MERGED:
            if _exists(f"{top}/usr/{name}") and not _exists(f"{top}/{name}"):
                os.symlink(f"usr/{name}", f"{top}/{name}")
        for path in glob.glob(f"{top}/lib/modules/*"):
            subprocess.run(["/usr/sbin/depmod", "-b", top, os.path.basename(path)], check=True)
        for program in ("libexec/virtiofsd", "lib/qemu/virtiofsd"):
            if _exists(f"{top}/usr/{program}"):
                _write(f"{top}/virtiofsd", THROUGH_ITS_OWN_LOADER.format(program))
                os.chmod(f"{top}/virtiofsd", 0o755)

    return made(f"{suite}-{packages[-1]}", make, *packages)


def mmdebstrap(suite: str, *arguments: str) -> None:
    """Run mmdebstrap: options, and then where to put the packages of a suite."""
    *options, target = arguments
    command = [*_private_mounts(), "mmdebstrap", "--quiet", *options, suite, target]
    subprocess.run(command, check=True)


def _directory(suite: str, top: str, *options: str) -> None:
    mmdebstrap(suite, "--format=directory", *options, top)
    os.chmod(top, 0o755)


def _private_mounts() -> list[str]:
    """Return how to start a program whose mounts cannot be left on this machine, where we may.

    An ordinary user may not; nor can root whose `/` is no mount, as in a chroot.
    """
    command = ["unshare", "--mount"]
    probe = subprocess.run([*command, "true"], check=False, stderr=subprocess.DEVNULL)
    return command if probe.returncode == 0 else []


def made(name: str, make: Callable[[str], None], *recipe: str) -> str:
    """Return the directory of an asset, made by calling `make` when it is not there yet."""
    path = os.path.join(cache(), f"{name}-{_digest(*recipe)}")
    if _exists(path):
        return path
    with _lock(f"{path}.lock"):
        if not _exists(path):
            part = f"{path}.part"
            shutil.rmtree(part, ignore_errors=True)
            os.mkdir(part)
            make(part)
            os.rename(part, path)
    return path


@contextmanager
def _lock(path: str) -> Iterator[None]:
    with open(path, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(*recipe: str) -> str:
    return hashlib.sha256("\0".join((RECIPE, *recipe)).encode()).hexdigest()[:8]


def _exists(path: str) -> bool:
    return os.path.lexists(path)


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where that leads to another file system."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
