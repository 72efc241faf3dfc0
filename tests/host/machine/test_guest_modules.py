"""Where the modules in the guest's /lib/modules/VERSION come from, and why there are none."""

import os
from pathlib import Path

import pytest

from initrd.cmdline import parse
from initrd.host.machine.cmdline import command_line
from initrd.host.machine.config import Machine
from initrd.host.machine.guest_modules import (
    BUILD_TAG,
    TAG,
    GuestModules,
    find_guest_modules,
    stage,
)
from initrd.host.machine.launch import (
    check_machine,
    format_commands,
    plan_launch,
    select_kernel,
)
from initrd.host.machine.rootfs import Kernel
from initrd.host.qemu.arch import find_arch
from initrd.host.system.hosterror import HostError
from initrd.host.virtiofsd import sandbox
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import Share
from tests.host.conftest import root_share, write_program
from tests.host.image.module_trees import write_build_tree, write_tree

DEPMOD = 'cd "$2/lib/modules/$3" && : >modules.dep.bin'
OTHERS = "/lib/modules of the root has other versions only"
READ_ONLY_CAPABLE = Virtiofsd("/virtiofsd", "rust", readonly=True)


@pytest.fixture(autouse=True)
def _namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let virtiofsd have the mounts that it needs, whoever runs the test."""
    monkeypatch.setattr(sandbox, "find_namespace_problem", lambda *, root: "")


def make_root(folder: Path, *directories: str, files: tuple[str, ...] = ()) -> str:
    root = folder / "root"
    for name in ("etc", *directories):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return str(root)


def find(
    root: str,
    modules: str,
    folder: Path,
    virtiofsd: Virtiofsd = READ_ONLY_CAPABLE,
    **changes: object,
) -> GuestModules:
    """Return the result for the kernel 6.1, with a depmod that makes what is required."""
    write_program(folder / "bin/depmod", DEPMOD)
    writable = bool(changes.pop("writable", False))
    machine = Machine(root_share(root, writable=writable), modules=modules).replace(**changes)
    kernel = Kernel("6.1", "/vmlinuz", modules)
    environment = {"PATH": f"{folder}/bin"}
    return find_guest_modules(machine, kernel, virtiofsd, environment)


@pytest.fixture
def modules(tmp_path: Path) -> str:
    """A module directory outside of the root."""
    return write_tree(tmp_path / "lib/modules/6.1", {"a.ko": ()})


SHARED = pytest.mark.parametrize(
    ("directories", "changes"),
    [
        pytest.param(("lib/modules/6.1", "lib/modules/5.10"), {}, id="an empty directory"),
        pytest.param(("usr/lib/modules", "lib/modules"), {}, id="no version"),
        pytest.param((), {"overlay": "ram"}, id="an overlay"),
        pytest.param(("lib/modules/5.10",), {"overlay": "/disk"}, id="an overlay, other versions"),
        pytest.param((), {"shares": (Share("a", "/lib/modules"),)}, id="a share"),
        pytest.param((), {"shares": (Share("a", "/usr/lib"),)}, id="a share above"),
    ],
)


@SHARED
def test_modules_are_shared_where_the_root_lacks_them_and_has_a_place(
    directories: tuple[str, ...], changes: dict[str, object], modules: str, tmp_path: Path
) -> None:
    found = find(make_root(tmp_path, *directories), modules, tmp_path, **changes)
    assert found == GuestModules(shares=(Share(TAG, writable=False, source=modules),))


@pytest.mark.parametrize("folder", ["lib/modules/6.1", "usr/lib/modules/6.1"])
def test_modules_of_the_root_are_not_shared_a_second_time(
    folder: str, modules: str, tmp_path: Path
) -> None:
    root = make_root(tmp_path, files=(f"{folder}/modules.dep",))
    assert find(root, modules, tmp_path, overlay="ram") == GuestModules(in_root=True)


def test_directory_of_the_root_that_becomes_a_link_is_not_shared(tmp_path: Path) -> None:
    """A program in the root replaces an empty directory after the kernel was selected."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("")
    root = make_root(tmp_path, "lib/modules/6.1", "boot", files=("boot/vmlinuz-6.1",))
    machine = Machine(root_share(root))
    kernel = select_kernel(machine)
    assert kernel.modules == f"{root}/lib/modules/6.1"
    os.rmdir(kernel.modules)
    os.symlink(tmp_path / "secret", kernel.modules)
    assert find_guest_modules(machine, kernel, READ_ONLY_CAPABLE, {}) == GuestModules()


def test_kernel_without_modules_or_of_unknown_version_shares_nothing(
    modules: str, tmp_path: Path
) -> None:
    root = make_root(tmp_path, "lib/modules")
    assert find(root, "", tmp_path) == GuestModules()
    machine, unknown = Machine(root_share(root)), Kernel("", "/vmlinuz", modules)
    assert find_guest_modules(machine, unknown, READ_ONLY_CAPABLE, {}) == GuestModules()


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize(
    ("directories", "shares", "why"),
    [
        pytest.param((), (), "the root has no /lib/modules", id="no lib"),
        pytest.param(("lib",), (), "the root has no /lib/modules", id="no modules"),
        pytest.param(("lib/modules/5.10",), (), OTHERS, id="other versions"),
        pytest.param(
            ("lib/modules/5.10",), (Share("a", "/lib/mod"), Share("b")), OTHERS, id="other shares"
        ),
    ],
)
def test_root_without_a_place_is_explained_and_not_changed(  # noqa: PLR0917
    directories: tuple[str, ...],
    shares: tuple[Share, ...],
    why: str,
    writable: bool,
    modules: str,
    tmp_path: Path,
) -> None:
    root = make_root(tmp_path, *directories)
    before = sorted(Path(root).rglob("*"))
    missing = find(root, modules, tmp_path, shares=shares, writable=writable).missing
    assert missing
    hint = f"mkdir -p {root}/lib/modules/6.1, or --overlay"
    assert (missing.why, missing.hint) == (why, hint)
    assert sorted(Path(root).rglob("*")) == before


def test_directory_to_make_is_that_behind_a_link(modules: str, tmp_path: Path) -> None:
    root = make_root(tmp_path, "usr/lib")
    os.symlink("usr/lib", f"{root}/lib")
    assert find(root, modules, tmp_path).remark("6.1") == (
        "the guest has no modules in /lib/modules/6.1: cannot mount them there: the root has no "
        f"/lib/modules; try: mkdir -p {root}/usr/lib/modules/6.1, or --overlay"
    )
    assert GuestModules().remark("6.1") == ""


def test_virtiofsd_that_cannot_share_read_only_is_the_reason(modules: str, tmp_path: Path) -> None:
    root = make_root(tmp_path, "lib/modules")
    missing = find(root, modules, tmp_path, Virtiofsd("/virtiofsd", "rust")).missing
    assert missing
    assert "no option --readonly" in missing.why


def test_build_tree_is_shared_beside_links_to_its_modules(tmp_path: Path) -> None:
    root, tree = make_root(tmp_path, "lib/modules"), write_build_tree(tmp_path / "t", {"a": ()})
    found = find(root, tree, tmp_path)
    assert [(share.tag, share.source) for share in found.shares] == [(TAG, tree), (BUILD_TAG, tree)]
    staged = stage(found, "6.1", f"{tmp_path}/cache", {"PATH": f"{tmp_path}/bin"})
    links, build = staged.shares
    assert os.path.basename(links.source) == "6.1"
    assert os.readlink(f"{links.source}/kernel/a.ko") == "../build/a.ko"
    assert (build.source, links.writable, build.writable) == (tree, False, False)


def test_build_tree_without_modules_is_not_shared(tmp_path: Path) -> None:
    root, tree = make_root(tmp_path, "lib/modules"), write_build_tree(tmp_path / "t", {})
    assert find(root, tree, tmp_path) == GuestModules()


def test_build_tree_is_not_shared_without_depmod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, tree = make_root(tmp_path, "lib/modules"), write_build_tree(tmp_path / "t", {"a": ()})
    find_program = "initrd.host.machine.guest_modules.locate.find_program"

    def fail(name: str, environment: dict[str, str], hint: str) -> str:
        assert environment["PATH"].endswith(":/usr/sbin:/sbin")
        raise HostError(f"cannot find {name}", "it is not on the path", hint)

    monkeypatch.setattr(find_program, fail)
    missing = find(root, tree, tmp_path).missing
    assert missing
    assert (
        str(missing) == "cannot find depmod: it is not on the path\ntry: install it (package kmod)"
    )


def test_failure_of_depmod_is_the_reason(tmp_path: Path) -> None:
    root, tree = make_root(tmp_path, "lib/modules"), write_build_tree(tmp_path / "t", {"a": ()})
    found = find(root, tree, tmp_path)
    write_program(tmp_path / "bin/depmod", "echo broken >&2; exit 3")
    staged = stage(found, "6.1", f"{tmp_path}/cache", {"PATH": f"{tmp_path}/bin"})
    assert staged.missing
    assert "exit status 3: broken" in staged.missing.why
    assert staged.shares == ()


def test_tags_of_the_modules_are_on_the_kernel_command_line(machine: Machine) -> None:
    shares = (Share(TAG), Share(BUILD_TAG))
    text = command_line(machine, find_arch("x86_64"), "tcg", shares)
    assert parse(text).modules == (TAG, BUILD_TAG)
    assert "initrd.modules" not in command_line(machine, find_arch("x86_64"), "tcg")


@pytest.mark.parametrize("tag", [TAG, BUILD_TAG])
def test_tags_of_the_modules_cannot_be_used_for_others(tag: str) -> None:
    with pytest.raises(HostError, match="that tag is for the modules"):
        check_machine(Machine(root_share("/"), shares=(Share(tag, source="/srv"),)))


def test_launch_shares_the_modules_of_another_kernel(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz-9.9").write_text("")
    builtin = ("virtiofs.ko", "virtio_pci.ko", "overlay.ko")
    modules = write_tree(tmp_path / "lib/modules/9.9", {"a.ko": ()}, builtin=builtin)
    machine = machine.replace(kernel=f"{tmp_path}/vmlinuz-9.9", modules=modules)
    for overlay in ("", "ram"):
        launch = plan_launch(machine.replace(overlay=overlay), {"XDG_CACHE_HOME": str(tmp_path)})
        os.close(launch.setup.initrd.descriptor)
        sources = [share.source for share in launch.setup.shares if share.tag == TAG]
        assert sources == ([modules] if overlay else [])
        assert parse(launch.setup.cmdline).modules == ((TAG,) if overlay else ())
        assert bool(launch.remarks) is not bool(overlay)


def test_remark_of_a_launch_is_printed_before_the_commands(
    machine: Machine, tmp_path: Path
) -> None:
    launch = plan_launch(machine, {"XDG_CACHE_HOME": str(tmp_path)})
    os.close(launch.setup.initrd.descriptor)
    assert not format_commands(launch)[0].startswith("#")
    lines = format_commands(launch.replace(remarks=("there is none",)))
    assert lines[0] == "# there is none"
