"""Make kernels, root directories and programs for virtual machines from Debian's packages.

Each asset is made at its first use, in the directory $CACHE (default build/cache), and then shared
by all checkouts, tests and test workers. It is made under a temporary name, while a lock is held,
and renamed when it is complete. Its name contains a digest of its recipe, so a changed recipe makes
a new asset. Assets are read-only by convention: a test that changes a root directory makes a copy.
"""

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

RECIPE = "2"  # part of every recipe; increment it when this module makes assets differently
HOST = "x86_64"  # the architecture of virtiofsd, and by default that of all else
DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
C_VIRTIOFSD = "/usr/lib/qemu/virtiofsd"

# The packages that the tests use in a Debian root; their dependencies are installed too.
DEBIAN_PACKAGES = (
    "linux-image-cloud-amd64",
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
APPLET_LINKS = ("sbin/init", "sbin/poweroff", "usr/bin/env")  # besides those in /bin
PROBE_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.c")
USR_MERGED = ("bin", "lib", "lib64", "sbin")

# The loader in a root directory. /lib64/ld-linux-x86-64.so.2, which programs name, is an absolute
# link in Debian 12: on the host it leads to the host's loader, and the loader and the C library of
# two releases do not fit together.
LOADER = "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"

# Runs a program of another Debian release with that release's loader and C library.
LOADER_SCRIPT = f"""#!/bin/sh
top=$(dirname "$(readlink -f "$0")")
libraries=$top/lib/x86_64-linux-gnu:$top/usr/lib/x86_64-linux-gnu
exec "$top{LOADER}" --library-path "$libraries" "$top/usr/{{}}" "$@"
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
    """An unpacked kernel package of a distribution."""

    suite: str  # Debian's code name; empty when not known
    version: str
    image: str  # path of vmlinuz
    modules: str  # path of lib/modules/VERSION


def cache() -> str:
    """Return the directory of all assets; make it where it is missing."""
    path = os.path.abspath(os.environ.get("CACHE") or "build/cache")
    os.makedirs(path, exist_ok=True)
    return path


def architecture() -> str:
    """Return the architecture of the guests: that of $GUEST_ARCH, by default the host's."""
    return os.environ.get("GUEST_ARCH") or HOST


def kernel(suite: str) -> Kernel:
    """Return the cloud kernel of a suite: 6.1 of `bookworm`, which has all in modules, 6.12 of
    `trixie`, which has virtiofs built in, or 5.10 of `bullseye`.
    """
    make = {"bullseye": _bullseye, "bookworm": _bookworm, "trixie": _trixie}[suite]
    directory = make(architecture())
    return find_kernel(directory, suite)


def find_kernel(top: str, suite: str = "") -> Kernel:
    """Return the kernel that a root directory holds."""
    (image,) = glob.glob(f"{top}/boot/vmlinuz-*")
    version = os.path.basename(image).removeprefix("vmlinuz-")
    return Kernel(suite, version, image, f"{top}/lib/modules/{version}")


def busybox() -> str:
    """Return the path of a static busybox."""
    return f"{_bookworm(architecture())}/bin/busybox"


def busybox_root() -> str:
    """Return the path of a root directory with busybox and Debian 12's kernel."""
    packages = os.path.basename(_bookworm(architecture()))
    return make_once(_named("busybox", architecture()), _make_busybox_root_with_kernel, packages)


def debian_root() -> str:
    """Return the path of a Debian 12 root directory with systemd, Python and a kernel.

    With `report` on the kernel command line, systemd writes the state of its units to the second
    serial port and powers off.
    """
    packages = ",".join(DEBIAN_PACKAGES)

    def make(top: str) -> None:
        _make_directory("bookworm", top, "--variant=minbase", f"--include={packages}")
        os.mkdir(f"{top}/var/lib/systemd/linger")  # logind cannot make it: the root is read-only
        units = f"{top}/etc/systemd/system"
        os.makedirs(f"{units}/multi-user.target.wants", exist_ok=True)
        _write(f"{units}/report.service", REPORT_UNIT)
        os.symlink("../report.service", f"{units}/multi-user.target.wants/report.service")

    return make_once("debian", make, packages, REPORT_UNIT)


def c_virtiofsd() -> str:
    """Return the path of the C virtiofsd, which QEMU had up to version 7.

    Its path on the host is in Debian 13 a link to the one in Rust.
    """
    if _exists(C_VIRTIOFSD) and not os.path.islink(C_VIRTIOFSD):
        return C_VIRTIOFSD
    return f"{_packages('bookworm', HOST, 'qemu-system-common')}/virtiofsd"


def rust_virtiofsd() -> str:
    """Return the path of the Rust virtiofsd of Debian 13."""
    return f"{_trixie(HOST)}/virtiofsd"


def probe() -> str:
    """Return the path of the static program of probe.c, which reports how it was started."""
    return f"{make_program('probe', PROBE_SOURCE)}/probe"


def make_program(name: str, path: str) -> str:
    """Compile the C file at `path`; return the directory of the static program `name`."""
    with open(path, encoding="utf-8") as file:
        source = file.read()

    def make(top: str) -> None:
        command = ["cc", "-O1", "-Wall", "-Wextra", "-static", path, "-o", f"{top}/{name}"]
        subprocess.run(command, check=True)

    return make_once(name, make, source)


def make_busybox_root(top: str) -> None:
    """Fill the directory `top` with a small system: busybox and a link to it for each applet."""
    for name in BUSYBOX_DIRECTORIES:
        os.makedirs(f"{top}/{name}", exist_ok=True)
    os.chmod(f"{top}/tmp", 0o1777)
    shutil.copy(busybox(), f"{top}/bin/busybox")
    native = f"{_bookworm(HOST)}/bin/busybox"  # its applets are those of each architecture
    listed = subprocess.run([native, "--list"], check=True, capture_output=True, text=True)
    for applet in set(listed.stdout.split()) - {"busybox"}:
        os.symlink("busybox", f"{top}/bin/{applet}")
    for path in APPLET_LINKS:
        os.makedirs(os.path.dirname(f"{top}/{path}"), exist_ok=True)
        os.symlink("/bin/busybox", f"{top}/{path}")


def add_kernel(kernel: Kernel, top: str) -> None:
    """Add a kernel to the root directory `top`, as hard links where the file system allows."""
    modules = f"{top}/lib/modules/{kernel.version}"
    shutil.copytree(kernel.modules, modules, symlinks=True, copy_function=_link_or_copy)
    os.makedirs(f"{top}/boot", exist_ok=True)
    _link_or_copy(kernel.image, f"{top}/boot/vmlinuz-{kernel.version}")


def _make_busybox_root_with_kernel(top: str) -> None:
    make_busybox_root(top)
    add_kernel(kernel("bookworm"), top)


def _bullseye(machine: str) -> str:
    """Return a directory with Debian 11's kernel for an architecture.

    The release's own packages stay as they are; those of its security updates may go at any time.
    """
    return _packages("bullseye", machine, f"{_kernel_package(machine)}/bullseye")


def _bookworm(machine: str) -> str:
    """Return a directory with Debian 12's kernel and busybox for an architecture."""
    return _packages("bookworm", machine, _kernel_package(machine), "busybox-static")


def _trixie(machine: str) -> str:
    """Return a directory with Debian 13's kernel and virtiofsd for an architecture."""
    return _packages("trixie", machine, _kernel_package(machine), "virtiofsd")


def _kernel_package(machine: str) -> str:
    return f"linux-image-cloud-{DEBIAN_NAMES[machine]}"


def _named(name: str, machine: str) -> str:
    """Return the name of an asset for an architecture."""
    return name if machine == HOST else f"{name}-{machine}"


def unpack(suite: str, machine: str, top: str, packages: Sequence[str]) -> None:
    """Unpack packages for an architecture in the directory `top`; do not configure them."""
    words = (f"--architectures={DEBIAN_NAMES[machine]}", f"--include={','.join(packages)}")
    _make_directory(suite, top, "--variant=extract", *words)
    for name in USR_MERGED:
        if _exists(f"{top}/usr/{name}") and not _exists(f"{top}/{name}"):
            os.symlink(f"usr/{name}", f"{top}/{name}")


def _packages(suite: str, machine: str, package: str, *others: str) -> str:
    """Return a directory in which packages are unpacked, but not configured."""
    packages = (package, *others)

    def make(top: str) -> None:
        unpack(suite, machine, top, packages)
        for path in glob.glob(f"{top}/lib/modules/*"):
            subprocess.run(["/usr/sbin/depmod", "-b", top, os.path.basename(path)], check=True)
        for program in ("libexec/virtiofsd", "lib/qemu/virtiofsd"):
            if _exists(f"{top}/usr/{program}"):
                _write(f"{top}/virtiofsd", LOADER_SCRIPT.format(program))
                os.chmod(f"{top}/virtiofsd", 0o755)

    name = packages[-1].partition("/")[0]  # without the release that it is taken from
    return make_once(_named(f"{suite}-{name}", machine), make, *packages, LOADER_SCRIPT)


def mmdebstrap(suite: str, *arguments: str) -> None:
    """Run mmdebstrap for a suite. `arguments` are its options and then its target."""
    *options, target = arguments
    command = [*_unshare_prefix(), "mmdebstrap", "--quiet", *options, suite, target]
    subprocess.run(command, check=True)


def _make_directory(suite: str, top: str, *options: str) -> None:
    """Make a directory with packages of a suite; its mode is 0755."""
    mmdebstrap(suite, "--format=directory", *options, top)
    os.chmod(top, 0o755)


def _unshare_prefix() -> list[str]:
    """Return the command prefix that runs a program in a mount namespace of its own.

    Mounts that the program leaves behind then vanish with it. The prefix is empty where unshare(1)
    fails: for an ordinary user, and for root when `/` is not a mount point, as in a chroot.
    """
    command = ["unshare", "--mount"]
    result = subprocess.run([*command, "true"], check=False, stderr=subprocess.DEVNULL)
    return command if result.returncode == 0 else []


def make_once(name: str, make: Callable[[str], None], *recipe: str) -> str:
    """Return the directory of an asset; call `make(directory)` when it does not exist yet.

    `recipe`: everything that the content depends on; it becomes part of the directory's name.
    """
    path = os.path.join(cache(), f"{name}-{_digest(*recipe)}")
    if _exists(path):
        return path
    with _lock(f"{path}.lock"):
        if not _exists(path):
            temporary = f"{path}.part"
            shutil.rmtree(temporary, ignore_errors=True)
            os.mkdir(temporary)
            make(temporary)
            os.rename(temporary, path)
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


def _link_or_copy(source: str, target: str) -> None:
    """Make a hard link to a file, or a copy on another file system (EXDEV)."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
