"""The mount of the kernel's modules at /lib/modules/VERSION, for each kind of root."""

import errno
from typing import Any

import pytest

from initrd.cmdline import parse
from initrd.guest._syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT
from initrd.guest.log import Log
from initrd.guest.roots.module_directory import mount_modules
from tests.fake_roots_kernel import LayerKernel

FLAGS = MS_NOSUID | MS_NODEV | MS_NOEXEC
TARGET = "/lib/modules/6.1"
SHARES = [
    ("mount", "m", TARGET, "virtiofs", MS_RDONLY, ""),
    ("mount", "b", f"{TARGET}/build", "virtiofs", MS_RDONLY, ""),
]


class ModuleKernel(LayerKernel):
    """A fake kernel with the release 6.1, and directories that may be empty."""

    def __init__(self, *directories: str, **kwargs: Any) -> None:
        files = {"/proc/sys/kernel/osrelease": "6.1\n", **kwargs.pop("files", {})}
        transport = "/sys/bus/pci/drivers/virtio-pci"
        super().__init__(directories=(transport, *directories), files=files, **kwargs)


def run(kernel: LayerKernel, cmdline: str = "initrd.modules=m:b") -> list[tuple[Any, ...]]:
    log = Log(kernel)  # type: ignore[arg-type]
    log.set_verbose(False)
    mount_modules(parse(cmdline), kernel, log)  # type: ignore[arg-type]
    return kernel.calls_named("mount")


def test_empty_directory_of_the_release_is_the_mount_point() -> None:
    kernel = ModuleKernel(TARGET, "/lib/modules/5.10")
    assert run(kernel) == SHARES
    assert kernel.output == ""


def test_one_tag_is_mounted_without_a_build_tree() -> None:
    assert run(ModuleKernel(TARGET), "initrd.modules=m") == SHARES[:1]


def test_empty_directory_of_all_modules_gets_a_tmpfs_that_is_read_only_at_the_end() -> None:
    kernel = ModuleKernel("/lib/modules")
    assert run(kernel) == [
        ("mount", "tmpfs", "/lib/modules", "tmpfs", FLAGS, "mode=0755,size=16k"),
        *SHARES,
        ("mount", "tmpfs", "/lib/modules", "", FLAGS | MS_REMOUNT | MS_RDONLY, ""),
    ]
    assert kernel.output == ""


@pytest.mark.parametrize("directories", [(), ("/lib/modules",), ("/lib/modules/5.10",)])
def test_overlay_takes_the_mount_point(directories: tuple[str, ...]) -> None:
    kernel = ModuleKernel(*directories)
    assert run(kernel, "initrd.modules=m:b overlay_root=ram") == SHARES
    assert kernel.output == ""


@pytest.mark.parametrize("options", ["", " rw", " overlay_root=ram"])
def test_modules_of_the_root_are_not_hidden(options: str) -> None:
    kernel = ModuleKernel(files={f"{TARGET}/modules.dep": ""})
    assert run(kernel, f"initrd.modules=m:b{options}") == []
    assert kernel.calls == []
    assert kernel.output == ""


@pytest.mark.parametrize("options", ["", " rw"])
@pytest.mark.parametrize(
    ("directories", "why"),
    [(("/lib/modules/5.10",), "has other versions only"), ((), "no /lib/modules")],
)
def test_root_without_a_place_is_a_warning_and_not_changed(
    directories: tuple[str, ...], why: str, options: str
) -> None:
    kernel = ModuleKernel(*directories)
    assert run(kernel, f"initrd.modules=m:b{options}") == []
    assert kernel.calls == []
    assert "going on without the kernel's modules: cannot mount the modules on " in kernel.output
    assert why in kernel.output
    assert f"try: make the directory {TARGET} in the root" in kernel.output


def test_link_to_the_directory_of_all_modules_is_followed() -> None:
    kernel = ModuleKernel("/lib/modules", "/store/5.10", links={"/lib/modules": "/store"})
    assert run(kernel) == []
    assert "has other versions only" in kernel.output


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        pytest.param({("mount", "m"): errno.EIO}, "Input/output error", id="mount"),
        pytest.param({("mount", "m"): errno.EINVAL}, "no tag m after 10 s", id="missing tag"),
        pytest.param({("mount", "tmpfs"): errno.ENODEV}, "No such device", id="no tmpfs"),
        pytest.param({("make_directory", TARGET): errno.EROFS}, "Read-only", id="mount point"),
    ],
)
def test_failure_is_a_warning(errors: dict[Any, int], text: str) -> None:
    kernel = ModuleKernel("/lib/modules", errors=errors)
    run(kernel)
    assert "going on without the kernel's modules: " in kernel.output
    assert text in kernel.output


def test_root_without_proc_is_a_warning() -> None:
    kernel = ModuleKernel("/lib/modules")
    del kernel.files["/proc/sys/kernel/osrelease"]
    assert run(kernel) == []
    assert "No such file or directory" in kernel.output


def test_directory_that_cannot_be_read_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    kernel = ModuleKernel(TARGET)
    monkeypatch.setattr(kernel, "list_directory", fail)
    assert run(kernel) == []
    assert f"cannot look at {TARGET}: Permission denied" in kernel.output
