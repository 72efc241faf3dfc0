"""Unions by a FUSE daemon on a fake kernel: the daemon, its root, and errors."""

import errno
import stat
from typing import Any

import pytest

from initrd.cmdline import parse
from initrd.guest._syscalls import MS_MOVE
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots.mount import mount_root
from tests.fake_roots_kernel import LayerKernel

PROGRAM = stat.S_IFREG | 0o755
DAEMON_ROOT = "/run/initramfs/union"
MERGED = f"{DAEMON_ROOT}/run/merged"
COMMON_OPTIONS = "allow_other,default_permissions,suid,dev"


class UnionKernel(LayerKernel):
    """A fake kernel with FUSE, a usual root at /rom, and a daemon that mounts at once."""

    def __init__(self, modes: dict[str, int] | None = None, **kwargs: Any) -> None:
        programs = {f"{root}/bin/sh": PROGRAM for root in ("/rom", MERGED)}
        programs |= {"/rom/usr/bin/unionfs": PROGRAM, "/rom/usr/bin/fuse-overlayfs": PROGRAM}
        files = {"/proc/filesystems": "nodev\tfuse\n", "/proc/self/mountinfo": ""}
        directories = tuple(f"/rom/{name}" for name in ("dev", "proc", "run"))
        kwargs.setdefault("directories", ("/sys/bus/pci/drivers/virtio-pci", *directories))
        files |= kwargs.pop("files", {})
        super().__init__(modes={**programs, **(modes or {})}, files=files, **kwargs)

    def start_daemon(self, *arguments: Any) -> int:
        self.files["/proc/self/mountinfo"] = f"1 2 0:3 / {MERGED} rw - fuse x rw\n"
        return super().start_daemon(*arguments)


def run(
    kernel: LayerKernel, union: str = "unionfs-fuse", cmdline: str = ""
) -> list[tuple[Any, ...]]:
    log = Log(kernel)  # type: ignore[arg-type]
    log.set_verbose(False)
    options = parse(f"overlay_root=ram initrd.union={union} {cmdline}")
    mount_root(options, kernel, log)  # type: ignore[arg-type]
    return kernel.calls


def test_daemon_runs_in_its_own_root_and_its_tree_is_moved_to_sysroot() -> None:
    kernel = UnionKernel()
    run(kernel)
    calls = [
        call[:3]
        for call in kernel.calls_named("mount", "make_node", "start_daemon", "keep_serving")
    ]
    command = [
        b"@/usr/bin/unionfs",
        b"-f",
        b"-o",
        b"cow,use_ino,statfs_omit_ro,auto_cache,entry_timeout=3600,negative_timeout=3600,"
        + COMMON_OPTIONS.encode(),
        b"/run/overlay/root=RW:/run/rom=RO",
        b"/run/merged",
    ]
    assert calls == [
        ("mount", "rootfs", "/rom"),
        ("mount", "tmpfs", "/overlay"),
        ("mount", "/rom", DAEMON_ROOT),
        ("mount", "tmpfs", f"{DAEMON_ROOT}/dev"),
        ("make_node", f"{DAEMON_ROOT}/dev/fuse", 0o600),
        ("make_node", f"{DAEMON_ROOT}/dev/null", 0o666),
        ("mount", "/proc", f"{DAEMON_ROOT}/proc"),
        ("mount", "tmpfs", f"{DAEMON_ROOT}/run"),
        ("mount", "/rom", f"{DAEMON_ROOT}/run/rom"),
        ("mount", "/overlay", f"{DAEMON_ROOT}/run/overlay"),
        ("start_daemon", DAEMON_ROOT, command),
        ("mount", MERGED, "/sysroot"),
        ("keep_serving", 42),
        ("mount", "/rom", "/sysroot/rom"),
        ("mount", "/overlay", "/sysroot/overlay"),
    ]


def test_pid_of_the_daemon_is_written_to_sendsigs_omit_d() -> None:
    assert ("write_file", "/run/sendsigs.omit.d/initrd-union", "42\n") in run(UnionKernel())


def test_console_of_the_daemon_is_a_named_pipe() -> None:
    assert ("make_fifo", "/run/initramfs/union/dev/console") in run(UnionKernel())


@pytest.mark.parametrize(("acls", "option"), [(True, ""), (False, ",noacl")])
def test_fuse_overlayfs_gets_noacl_on_a_file_system_without_acls(acls: bool, option: str) -> None:
    kernel = UnionKernel()
    kernel.has_acls = lambda path: acls  # type: ignore[method-assign]
    run(kernel, "fuse-overlayfs")
    ((_, _, argv),) = kernel.calls_named("start_daemon")
    layers = "lowerdir=/run/rom,upperdir=/run/overlay/root,workdir=/run/overlay/work"
    assert argv[0] == b"@/usr/bin/fuse-overlayfs"
    assert argv[3] == f"{layers},{COMMON_OPTIONS}{option}".encode()


@pytest.mark.parametrize("missing", ["/dev", "/proc", "/run"])
def test_root_without_dev_proc_or_run_is_an_error(missing: str) -> None:
    kernel = UnionKernel()
    kernel.directories.discard(f"/rom{missing}")
    with pytest.raises(BootError, match=f"the root has no directory {missing}"):
        run(kernel)
    assert kernel.calls_named("start_daemon") == []


@pytest.mark.parametrize("mode", [0, stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755])
def test_root_without_the_union_program_is_an_error(mode: int) -> None:
    kernel = UnionKernel(modes={"/rom/usr/bin/unionfs": mode})
    with pytest.raises(BootError, match=r"no unionfs-fuse or unionfs in /usr/bin.*\n.*install"):
        run(kernel)


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (0, "there is no such file in the root"),
        (stat.S_IFREG | 0o644, r"it is not executable\ntry: chmod \+x /opt/it in the root"),
        (stat.S_IFDIR | 0o755, "it is no file"),
    ],
)
def test_target_that_cannot_be_executed_is_an_error_before_any_mount_is_moved(
    mode: int, text: str
) -> None:
    kernel = UnionKernel(modes={f"{MERGED}/opt/it": mode})
    with pytest.raises(BootError, match=f"cannot execute the target /opt/it: {text}"):
        run(kernel, cmdline="init=/opt/it")
    assert not [call for call in kernel.calls_named("mount") if call[4] == MS_MOVE]


@pytest.mark.parametrize("target", ["/run/mnt/share/it", "/srv/it", "/link"])
def test_target_on_a_share_mounted_later_is_not_checked(target: str) -> None:
    kernel = UnionKernel(links={f"{MERGED}/link": "/run/mnt/share/it"})
    run(kernel, cmdline=f"init={target} mount=share mount=other:/srv")
    assert kernel.calls_named("start_daemon")


def test_target_in_a_loop_of_symbolic_links_is_an_error() -> None:
    kernel = UnionKernel(links={f"{MERGED}/loop": "/loop"})
    with pytest.raises(BootError, match="the target /loop: Too many levels of symbolic links"):
        run(kernel, cmdline="init=/loop")


@pytest.mark.parametrize(
    ("status", "text"),
    [(1, "it exited with status 1; it said: bad option"), (-9, "it died of signal 9")],
)
def test_output_of_a_daemon_that_ends_early_is_in_the_error(status: int, text: str) -> None:
    kernel = UnionKernel(files={f"{DAEMON_ROOT}/run/log": "\n\nbad option\n"})
    kernel.statuses = [None, status]
    kernel.start_daemon = lambda *_: 42  # type: ignore[method-assign]
    with pytest.raises(BootError, match=f"with /usr/bin/unionfs: {text}"):
        run(kernel)


def test_daemon_that_mounts_nothing_is_an_error_after_the_timeout() -> None:
    kernel = UnionKernel()
    kernel.start_daemon = lambda *_: 42  # type: ignore[method-assign]
    with pytest.raises(BootError, match="it has mounted nothing after 2 s"):
        run(kernel, cmdline="initrd.timeout=2")
    assert kernel.clock == pytest.approx(2)


def test_kernel_without_pidfd_getfd_causes_a_warning() -> None:
    kernel = UnionKernel(errors={"keep_serving": errno.ENOSYS})
    run(kernel)
    assert "shutting down may hang" in kernel.output


def test_failure_of_each_step_is_reported() -> None:
    for number in range(len(run(UnionKernel()))):
        kernel = UnionKernel(fail_call=number)
        try:
            run(kernel)
        except BootError as error:
            assert "Input/output error" in str(error)
        else:
            assert "shutting down may hang" in kernel.output
