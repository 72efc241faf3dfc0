"""chrootvm --kernel and --modules: build trees, and modprobe in roots without their modules."""

import os
import subprocess
from pathlib import Path

import pytest

from initrd.host import vm
from testbed import assets
from tests.boot.build_tree import build_tree
from tests.boot.chrootvm import run
from tests.boot.conftest import WARM_ONLY
from tests.boot.host.test_chrootvm_shares import FAMILIES, read_tree

pytestmark = pytest.mark.boot

# Two modules with a dependency that the image does not have, and where they come from.
MODPROBE = """
modprobe xfs && modprobe nls_utf8 && grep -oE '^(nls_utf8|xfs|libcrc32c) ' /proc/modules
cut -d' ' -f1-4 /proc/mounts | grep modules | sed 's/rw.*/rw/; s/ro.*/ro/'
for path in /lib/modules/*/ /lib/modules/*/build/; do touch $path/new 2>/dev/null; done
! grep -q '^tmpfs /lib/modules ' /proc/mounts || ! touch /lib/modules/new 2>/dev/null
""".strip()
# Debian's modprobe needs files that depmod makes; that of busybox reads modules.dep only.
MODPROBE_OF_DEBIAN = """
cd /run/mnt/debian; mount -o rbind /lib/modules lib/modules
for name in proc sys; do mount -o bind /$name $name; done
chroot . /sbin/modprobe -v xfs; chroot . /sbin/modprobe --show-depends ext4
""".strip()
LOADED = "nls_utf8 \nxfs \nlibcrc32c \n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory without a kernel that the test may change."""
    path = tmp_path / "root"
    assets.make_busybox_root(str(path))
    return path


def build_tree_options() -> tuple[str, ...]:
    return ("--kernel", build_tree())


def package_options() -> tuple[str, ...]:
    kernel = assets.kernel("bookworm")
    return ("--kernel", kernel.image, "--modules", kernel.modules)


def release() -> str:
    return assets.kernel("bookworm").version


def share_lines(*, build: bool) -> str:
    """Return the lines of /proc/mounts for the shares of the modules."""
    lines = [f"initrd.modules /lib/modules/{release()} virtiofs ro"]
    lines += [f"initrd.build /lib/modules/{release()}/build virtiofs ro"] if build else []
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize("family", FAMILIES)
def test_modprobe_loads_modules_of_a_build_tree(family: str, root: Path, tmp_path: Path) -> None:
    (root / "lib/modules").mkdir(parents=True)
    before = read_tree(root)
    options = ("--virtiofsd", FAMILIES[family](), *build_tree_options())
    status, output, errors = run(*options, str(root), "--", "sh", "-c", MODPROBE, folder=tmp_path)
    assert (status, errors) == (0, "")
    assert output == f"{LOADED}tmpfs /lib/modules tmpfs ro\n{share_lines(build=True)}"
    assert read_tree(root) == before


@WARM_ONLY
@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    ("directory", "options", "mounts"),
    [
        pytest.param("lib/modules", ("--rw",), "tmpfs /lib/modules tmpfs ro\n", id="tmpfs"),
        pytest.param("lib/modules/{}", (), "", id="an empty directory"),
        pytest.param("lib/modules/{}", ("--rw",), "", id="an empty directory, writable"),
        pytest.param("", ("--overlay",), "", id="an overlay"),
        pytest.param("lib/modules/5.10", ("--overlay={}/disk",), "", id="an overlay in a file"),
    ],
)
def test_modprobe_loads_modules_that_the_root_lacks(
    directory: str, options: tuple[str, ...], mounts: str, root: Path, tmp_path: Path
) -> None:
    (root / directory.format(release())).mkdir(parents=True, exist_ok=True)
    before = read_tree(root / "lib") if directory else None
    words = (*package_options(), *(option.format(tmp_path) for option in options), str(root))
    # An overlay in a file has a directory for the modules at the second boot.
    for _ in range(2 if any("/disk" in option for option in options) else 1):
        status, output, errors = run(*words, "--", "sh", "-c", MODPROBE, folder=tmp_path)
        assert (status, errors) == (0, "")
        assert output == f"{LOADED}{mounts}{share_lines(build=False)}"
    assert (read_tree(root / "lib") if directory else None) == before
    assert (root / "lib").exists() is bool(directory)


@pytest.mark.usefixtures("start")
def test_modprobe_of_kmod_loads_modules_of_a_build_tree(root: Path, tmp_path: Path) -> None:
    (root / "lib/modules").mkdir(parents=True)
    options = (*build_tree_options(), "--mount-ro", "debian", assets.debian_root())
    words = (*options, str(root), "--", "sh", "-c", MODPROBE_OF_DEBIAN)
    status, output, errors = run(*words, folder=tmp_path)
    assert (status, errors) == (0, "")
    folder = f"insmod /lib/modules/{release()}/kernel"
    loaded = [line.strip() for line in output.splitlines()]
    assert f"{folder}/arch/x86/crypto/crc32c-intel.ko" in loaded, "a soft dependency"
    assert loaded[-3:] == [f"{folder}/lib/libcrc32c.ko", f"{folder}/fs/xfs/xfs.ko", "builtin ext4"]


@WARM_ONLY
@pytest.mark.usefixtures("start")
@pytest.mark.parametrize("directory", ["", "lib/modules/5.10"])
def test_root_without_a_place_boots_without_modules_and_says_why(
    directory: str, root: Path, tmp_path: Path
) -> None:
    (root / directory).mkdir(parents=True, exist_ok=True)
    before = read_tree(root)
    words = (*build_tree_options(), "--rw", str(root), "--")
    script = f"test ! -e /lib/modules/{release()} && ! modprobe xfs 2>/dev/null && echo done"
    assert run(*words, "sh", "-c", script, folder=tmp_path) == (0, "done\n", "")
    assert read_tree(root) == before
    why = (
        "/lib/modules of the root has other versions only"
        if directory
        else "the root has no /lib/modules"
    )
    hint = f"try: mkdir -p {root}/lib/modules/{release()}, or --overlay"
    status, _, errors = run("--verbose", *words, "true", folder=tmp_path)
    assert status == 0
    assert errors.count(why) == errors.count(hint) == 1
    status, output, _ = run("--doctor", *words, "true", folder=tmp_path)
    assert status == 0
    assert f"warning  /lib/modules modprobe will find none for {release()}: " in output
    assert why in output
    assert hint in output


def test_doctor_agrees_with_a_boot_of_a_build_tree(root: Path, tmp_path: Path) -> None:
    words = (*build_tree_options(), "--overlay", str(root), "--", "true")
    status, output, errors = run("--doctor", *words, folder=tmp_path)
    assert (status, errors) == (0, "")
    tree = build_tree()
    assert f"ok       kernel       {release()} ({tree}/arch/x86/boot/bzImage)\n" in output
    assert f"ok       /lib/modules will be mounted, from {tree}\n" in output
    assert "ok       --warm " in output
    assert run(*words, folder=tmp_path) == (0, "", "")


def test_root_with_its_modules_has_no_further_share(tmp_path: Path) -> None:
    for options in ((), package_options(), build_tree_options()):
        words = (*options, assets.busybox_root(), "--", "true")
        status, output, _ = run("--dry-run", *words, folder=tmp_path)
        assert status == 0
        assert output.count("socket-path=") == 1
        assert "initrd.modules" not in output


def test_init_of_a_build_tree_has_modules_too(root: Path, tmp_path: Path) -> None:
    (root / "lib/modules").mkdir(parents=True)
    script = "modprobe nls_utf8 && grep ^nls_utf8 /proc/modules; poweroff -f"
    words = (*build_tree_options(), str(root), "/bin/sh", "-c", script)
    status, output, errors = run(*words, folder=tmp_path)
    assert (status, errors) == (0, "")
    assert "nls_utf8" in output


def test_python_interface_takes_a_build_tree(root: Path, start: str) -> None:
    (root / "lib/modules").mkdir(parents=True)
    words = ["sh", "-c", "modprobe nls_utf8; uname -r"]
    options = {"kernel": build_tree(), "warm": start == "warm"}
    done = vm.run(root, words, text=True, check=True, **options)
    assert (done.stdout, done.stderr) == (f"{release()}\n", "")


def test_image_with_modules_of_a_build_tree_is_made(tmp_path: Path) -> None:
    command = ["scripts/mkvirtinitrd", "--net", "dist/init", build_tree()]
    subprocess.run([*command, f"{tmp_path}/image"], check=True)
    listed = subprocess.run(
        ["scripts/mkvirtinitrd", "--list", f"{tmp_path}/image"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "virtiofs.ko" in listed.stdout
    assert "net_failover.ko" in listed.stdout


def test_modules_of_a_build_tree_are_removed_from_the_cache(root: Path, tmp_path: Path) -> None:
    (root / "lib/modules").mkdir(parents=True)
    words = (*build_tree_options(), str(root), "--", "true")
    assert run(*words, folder=tmp_path) == (0, "", "")
    folder = f"{os.environ['XDG_CACHE_HOME']}/initrd/modules"
    assert os.listdir(folder) != []
    assert run("--clean-cache", folder=tmp_path) == (0, "", "")
    assert os.listdir(folder) == []
    assert os.path.exists(f"{build_tree()}/modules.order")
