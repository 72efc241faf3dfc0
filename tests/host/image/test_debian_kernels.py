"""Modules chosen from the kernels of Debian, compared with those that modprobe loads."""

import subprocess

import pytest

from initrd.host.image import build, lsinitramfs, modules
from initrd.host.image.buildtree import BuildTree
from initrd.host.image.kmod import ModuleTree, module_name
from initrd.host.image.modules import choose_modules, load_order
from testbed import assets
from tests.boot.build_tree import build_tree
from tests.host.image.test_build import INIT

pytestmark = pytest.mark.tools

SUITES = pytest.mark.parametrize("suite", ["bookworm", "trixie"])
# Faster versions of algorithms that these kernels have built in: modprobe loads them as well.
FASTER_VERSIONS = {"crc32c_intel"}
CMDLINES = (
    "rootfs=x",
    "overlay_root=ram ip=dhcp console=hvc0",
    "root=/dev/vda overlay_root=vdb",
    "root=/dev/sda rootfstype=iso9660",
    "root=LABEL=x",
)


def modules_of_modprobe(kernel: assets.Kernel, module: str) -> set[str]:
    top = kernel.modules.removesuffix(f"/lib/modules/{kernel.version}")
    command = ["/usr/sbin/modprobe", "--dirname", top, "--set-version", kernel.version]
    command += ["--config", "/dev/null", "--show-depends", module]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return {module_name(line[1]) for line in lines if line[0] == "insmod"}


@SUITES
@pytest.mark.parametrize("module", ["virtiofs", "ext4", "cifs", "erofs", "isofs", "nf_nat", "vfio"])
def test_the_dependencies_of_a_module_are_those_that_modprobe_loads(
    suite: str, module: str
) -> None:
    kernel = assets.kernel(suite)
    chosen = {
        found.name for found in choose_modules(kernel.modules, [modules.module_requirement(module)])
    }
    assert chosen == modules_of_modprobe(kernel, module) - FASTER_VERSIONS


def test_modules_of_a_build_tree_have_the_dependencies_and_aliases_that_depmod_finds() -> None:
    built, installed = BuildTree(build_tree()), ModuleTree(assets.kernel("bookworm").modules)
    names = [module_name(file) for file in built.files]
    assert len(names) > 1000
    for name in names:
        assert set(load_order(built, [name])) == set(load_order(installed, [name]))
    for word in (
        "fs-xfs",
        "fs-iso9660",
        "crypto-crc32c",
        "char-major-10-229",
        "fs-ext4",
        "fs-none",
    ):
        assert built.find(word) == installed.find(word)


@SUITES
@pytest.mark.parametrize("cmdline", CMDLINES)
def test_the_modules_for_a_command_line_are_found_and_decompressed(
    suite: str, cmdline: str
) -> None:
    kernel = assets.kernel(suite)
    archive = build.build_image(
        INIT, choose_modules(kernel.modules, modules.requirements_of_cmdline(cmdline))
    )
    packed = [entry for entry in lsinitramfs.read_entries(archive) if entry.path.endswith(b".ko")]
    assert packed
    assert {entry.data[:4] for entry in packed} == {b"\x7fELF"}
