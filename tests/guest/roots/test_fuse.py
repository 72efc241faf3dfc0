"""The union in user space, on a kernel that only records; and every place where it can break."""

import errno
import stat
from typing import Any

import pytest

from initrd.cmdline import parse
from initrd.guest._syscalls import MS_MOVE
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots.mount import mount_root
from tests.layer_kernel import LayerKernel

PROGRAM = stat.S_IFREG | 0o755
HOME = "/run/initramfs/union"
MERGED = f"{HOME}/run/merged"
COMMON = "allow_other,default_permissions,suid,dev"


class UnionKernel(LayerKernel):
    """A fake with FUSE, a usual root at /rom, and a daemon that mounts when it is started."""

    def __init__(self, modes: dict[str, int] | None = None, **kwargs: Any) -> None:
        programs = {f"{top}/bin/sh": PROGRAM for top in ("/rom", MERGED)}
        programs |= {"/rom/usr/bin/unionfs": PROGRAM, "/rom/usr/bin/fuse-overlayfs": PROGRAM}
        files = {"/proc/filesystems": "nodev\tfuse\n", "/proc/self/mountinfo": ""}
        places = tuple(f"/rom/{name}" for name in ("dev", "proc", "run"))
        kwargs.setdefault("directories", ("/sys/bus/pci/drivers/virtio-pci", *places))
        files |= kwargs.pop("files", {})
        super().__init__(modes={**programs, **(modes or {})}, files=files, **kwargs)

    def start_daemon(self, *arguments: Any) -> int:
        self.files["/proc/self/mountinfo"] = f"1 2 0:3 / {MERGED} rw - fuse x rw\n"
        return super().start_daemon(*arguments)


def run(kernel: LayerKernel, union: str = "unionfs-fuse", more: str = "") -> list[tuple[Any, ...]]:
    log = Log(kernel)  # type: ignore[arg-type]
    log.set_verbose(False)
    options = parse(f"overlay_root=ram initrd.union={union} {more}")
    mount_root(options, kernel, log)  # type: ignore[arg-type]
    return kernel.calls


def test_the_daemon_gets_a_root_of_its_own_and_its_tree_becomes_ours() -> None:
    kernel = UnionKernel()
    run(kernel)
    told = [call[:3] for call in kernel.named("mount", "make_node", "start_daemon", "keep_serving")]
    command = [
        b"@/usr/bin/unionfs",
        b"-f",
        b"-o",
        b"cow,use_ino,statfs_omit_ro,auto_cache,entry_timeout=3600,negative_timeout=3600,"
        + COMMON.encode(),
        b"/run/overlay/root=RW:/run/rom=RO",
        b"/run/merged",
    ]
    assert told == [
        ("mount", "rootfs", "/rom"),
        ("mount", "tmpfs", "/overlay"),
        ("mount", "/rom", HOME),
        ("mount", "tmpfs", f"{HOME}/dev"),
        ("make_node", f"{HOME}/dev/fuse", 0o600),
        ("make_node", f"{HOME}/dev/null", 0o666),
        ("mount", "/proc", f"{HOME}/proc"),
        ("mount", "tmpfs", f"{HOME}/run"),
        ("mount", "/rom", f"{HOME}/run/rom"),
        ("mount", "/overlay", f"{HOME}/run/overlay"),
        ("start_daemon", HOME, command),
        ("mount", MERGED, "/sysroot"),
        ("keep_serving", 42),
        ("mount", "/rom", "/sysroot/rom"),
        ("mount", "/overlay", "/sysroot/overlay"),
    ]


def test_its_pid_is_left_for_the_shutdown_to_spare() -> None:
    assert ("write_file", "/run/sendsigs.omit.d/initrd-union", "42\n") in run(UnionKernel())


def test_the_daemons_console_is_one_that_nobody_reads() -> None:
    assert ("make_fifo", "/run/initramfs/union/dev/console") in run(UnionKernel())


@pytest.mark.parametrize(("acls", "option"), [(True, ""), (False, ",noacl")])
def test_fuse_overlayfs_is_told_where_there_are_no_acls(acls: bool, option: str) -> None:
    kernel = UnionKernel()
    kernel.has_acls = lambda path: acls  # type: ignore[method-assign]
    run(kernel, "fuse-overlayfs")
    ((_, _, argv),) = kernel.named("start_daemon")
    layers = "lowerdir=/run/rom,upperdir=/run/overlay/root,workdir=/run/overlay/work"
    assert argv[0] == b"@/usr/bin/fuse-overlayfs"
    assert argv[3] == f"{layers},{COMMON}{option}".encode()


@pytest.mark.parametrize("missing", ["/dev", "/proc", "/run"])
def test_a_root_without_the_directories_is_refused(missing: str) -> None:
    kernel = UnionKernel()
    kernel.directories.discard(f"/rom{missing}")
    with pytest.raises(BootError, match=f"the root has no directory {missing}"):
        run(kernel)
    assert kernel.named("start_daemon") == []


@pytest.mark.parametrize("mode", [0, stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755])
def test_a_root_without_the_program_is_refused(mode: int) -> None:
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
def test_a_target_that_cannot_run_is_said_before_a_mount_is_moved(mode: int, text: str) -> None:
    kernel = UnionKernel(modes={f"{MERGED}/opt/it": mode})
    with pytest.raises(BootError, match=f"cannot execute the target /opt/it: {text}"):
        run(kernel, more="init=/opt/it")
    assert not [call for call in kernel.named("mount") if call[4] == MS_MOVE]


@pytest.mark.parametrize("target", ["/run/mnt/share/it", "/srv/it", "/link"])
def test_a_target_on_a_later_mount_is_not_looked_for(target: str) -> None:
    kernel = UnionKernel(links={f"{MERGED}/link": "/run/mnt/share/it"})
    run(kernel, more=f"init={target} mount=share mount=other:/srv")
    assert kernel.named("start_daemon")


def test_a_target_behind_a_loop_of_links_is_named() -> None:
    kernel = UnionKernel(links={f"{MERGED}/loop": "/loop"})
    with pytest.raises(BootError, match="the target /loop: Too many levels of symbolic links"):
        run(kernel, more="init=/loop")


@pytest.mark.parametrize(
    ("status", "text"),
    [(1, "it exited with status 1; it said: bad option"), (-9, "it died of signal 9")],
)
def test_a_daemon_that_ends_is_quoted(status: int, text: str) -> None:
    kernel = UnionKernel(files={f"{HOME}/run/log": "\n\nbad option\n"})
    kernel.statuses = [None, status]
    kernel.start_daemon = lambda *_: 42  # type: ignore[method-assign]
    with pytest.raises(BootError, match=f"with /usr/bin/unionfs: {text}"):
        run(kernel)


def test_a_daemon_that_never_mounts_is_not_waited_for_for_ever() -> None:
    kernel = UnionKernel()
    kernel.start_daemon = lambda *_: 42  # type: ignore[method-assign]
    with pytest.raises(BootError, match="it has mounted nothing after 2 s"):
        run(kernel, more="initrd.timeout=2")
    assert kernel.clock == pytest.approx(2)


def test_an_old_kernel_is_warned_of() -> None:
    kernel = UnionKernel(errors={"keep_serving": errno.ENOSYS})
    run(kernel)
    assert "shutting down may hang" in kernel.said


def test_every_step_that_fails_is_named() -> None:
    for number in range(len(run(UnionKernel()))):
        kernel = UnionKernel(fail_call=number)
        try:
            run(kernel)
        except BootError as error:
            assert "Input/output error" in str(error)
        else:
            assert "shutting down may hang" in kernel.said
