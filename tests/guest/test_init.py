"""A whole boot of /init on a fake kernel, and its handling of every error."""

from typing import Any

import pytest

from initrd.guest._syscalls import MS_MOVE, MS_RDONLY
from initrd.guest.log import Log
from initrd.init import Boot, reason_to_refuse
from tests.fake_kernel import BootEnded, Call, EndingKernel, FakeKernel

TRANSPORT = "/sys/bus/pci/drivers/virtio-pci"
MODULES = "/usr/lib/modules"
DEVICES = "/sys/bus/virtio/drivers/virtiofs"


class BootKernel(EndingKernel):
    """A fake kernel with a usual root; power_off and execute end the boot with BootEnded."""

    def __init__(self, cmdline: str = "", **kwargs: Any) -> None:
        files = {"/proc/cmdline": cmdline, f"{TRANSPORT}/bind": "", **kwargs.pop("files", {})}
        roots = tuple(f"/sysroot/{name}" for name in ("run", "dev", "proc", "sys", "tmp"))
        super().__init__(files=files, directories=kwargs.pop("directories", roots), **kwargs)


class ModuleDirectoryKernel(BootKernel):
    """A fake kernel of release 6.1 whose root has an empty directory for its modules."""

    def __init__(self, cmdline: str) -> None:
        super().__init__(cmdline, files={"/proc/sys/kernel/osrelease": "6.1\n"})
        self.directories.add("/lib/modules/6.1")

    def real_path(self, path: str) -> str:
        return path


class CountingKernel(BootKernel):
    """A fake kernel that counts the attempts to mount the tag rootfs, failed ones too."""

    attempts = 0

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str) -> None:
        self.attempts += source == "rootfs"
        super().mount(source, target, fstype, flags, data)


def boot(kernel: FakeKernel, *arguments: str) -> list[Call]:
    with pytest.raises((BootEnded, SystemExit)):
        Boot(kernel, list(arguments)).run()  # type: ignore[arg-type]
    return kernel.calls


def mounts(kernel: FakeKernel) -> list[tuple[str, str]]:
    return [(call[1], call[2]) for call in kernel.calls_named("mount")]


def test_unused_root_is_named_in_the_kernel_log_and_the_boot_goes_on() -> None:
    kernel = BootKernel("root=UUID=1-2 ro rootfs=r init=/bin/true")
    boot(kernel)
    assert ("r", "/sysroot") in mounts(kernel)
    assert "initrd: root=UUID=1-2: not used, because rootfs=r is the root" in kernel.output


def test_boot_makes_its_calls_in_the_documented_order() -> None:
    kernel = BootKernel(
        "rootfs=r mount=a mount-ro=b:/srv init=/bin/true", files={f"{MODULES}/1.ko": ""}
    )
    boot(kernel, "x", "y z")
    calls = [
        call[:3]
        for call in kernel.calls_named("mount", "load_module", "chroot", "empty", "execute")
    ]
    assert calls == [
        ("mount", "sysfs", "/sys"),
        ("mount", "devtmpfs", "/dev"),
        ("mount", "proc", "/proc"),
        ("mount", "tmpfs", "/run"),
        ("mount", "tmpfs", "/tmp"),
        ("mount", "devpts", "/dev/pts"),
        ("mount", "tmpfs", "/dev/shm"),
        ("load_module", "/usr/lib/modules/1.ko", ""),
        ("mount", "r", "/sysroot"),
        ("mount", "a", "/run/mnt/a"),
        ("mount", "/run", "/sysroot/run"),
        ("mount", "/dev", "/sysroot/dev"),
        ("mount", "/proc", "/sysroot/proc"),
        ("mount", "/sys", "/sysroot/sys"),
        ("mount", "/tmp", "/sysroot/tmp"),
        ("mount", ".", "/"),
        ("chroot", "."),
        ("mount", "b", "/srv"),
        ("empty", 1),
        ("execute", "/bin/true", [b"/bin/true", b"x", b"y z"]),
    ]


def test_modules_are_mounted_after_the_shares_that_may_have_them() -> None:
    kernel = ModuleDirectoryKernel("mount=b:/lib initrd.modules=m")
    boot(kernel)
    last = [("b", "/lib"), ("m", "/lib/modules/6.1")]
    assert mounts(kernel)[-2:] == last
    names = [call[0] for call in kernel.calls]
    assert names.index("chroot") < kernel.calls.index(("mount", "m", last[1][1], "virtiofs", 1, ""))
    assert names[-1] == "execute"


def test_successful_boot_prints_nothing() -> None:
    kernel = BootKernel()
    boot(kernel)
    assert kernel.output == ""


def test_debug_prints_each_step_with_its_duration() -> None:
    kernel = BootKernel("debug mount=data")
    boot(kernel)
    lines = kernel.output.splitlines()
    for subject in ("/sys", "/dev/pts", "/sysroot", "/run/mnt/data", "move the mount /run"):
        assert any(subject in line and line.endswith(" ms, at 0.0000 s]") for line in lines)


def test_debug_prints_when_the_kernel_started_init() -> None:
    kernel = BootKernel("debug")
    kernel.clock = 2.5
    kernel.files["/dev/kmsg"] = "6,1,900;other\n6,400,2250000,-;Run /init as init process\n"
    boot(kernel)
    assert "initrd: the kernel [2250.0 ms, at 0.0000 s]\n" in kernel.output
    assert "initrd: start Python [250.0 ms, at 2.2500 s]\n" in kernel.output
    assert "initrd: execute /bin/sh [0.0 ms, at 2.5000 s]\n" in kernel.output


@pytest.mark.parametrize("log", ["6,1,900;other", "6,1,9900000;Run /init as init process", None])
def test_kernel_log_without_the_start_of_init_does_not_fail_the_boot(log: str | None) -> None:
    kernel = BootKernel("debug")
    kernel.clock = 2.5
    if log is not None:
        kernel.files["/dev/kmsg"] = log
    boot(kernel)
    assert "start Python" not in kernel.output
    assert kernel.calls_named("execute")


def test_debug_prints_a_step_before_it_is_applied() -> None:
    kernel = BootKernel("debug rootfs=gone", errors={("mount", "gone"): 5})
    boot(kernel)
    assert "mount gone (virtiofs) on /sysroot (ro) ...\n" in kernel.output


def test_root_is_mounted_read_only_without_rw() -> None:
    for cmdline, flags in (("", MS_RDONLY), ("rw", 0)):
        kernel = BootKernel(cmdline)
        boot(kernel)
        assert ("mount", "rootfs", "/sysroot", "virtiofs", flags, "") in kernel.calls


def test_root_is_moved_to_slash_with_ms_move() -> None:
    kernel = BootKernel()
    boot(kernel)
    assert ("mount", ".", "/", "", MS_MOVE, "") in kernel.calls


def count_calls_of_a_boot() -> int:
    """Return the number of calls of a successful boot, without that of execve(2)."""
    kernel = BootKernel("mount=a mount=b:/srv")
    boot(kernel)
    return len([call for call in kernel.calls if call[0] != "execute"])


@pytest.mark.parametrize("number", range(count_calls_of_a_boot()))
def test_boot_with_any_failing_call_powers_off_with_a_reason(number: int) -> None:
    kernel = BootKernel("mount=a mount=b:/srv", fail_call=number)
    boot(kernel)
    assert kernel.calls[-1] == ("power_off",)
    assert "initrd: boot failed: " in kernel.output
    assert "Input/output error" in kernel.output
    assert "Traceback" not in kernel.output


def test_error_whose_text_cannot_be_written_ends_the_boot() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    class OddKernel(BootKernel):
        error: Exception

        def read(self, path: str) -> str:
            if path == "/proc/cmdline":
                raise self.error
            return super().read(path)

    for error, message in (
        (Unprintable(), "initrd: boot failed: Unprintable; ValueError"),
        (ValueError("a label \ud83d, a byte \udcff"), "ValueError: a label \\ud83d, a byte"),
    ):
        kernel = OddKernel()
        kernel.error = error
        boot(kernel)
        assert message in kernel.output
        assert kernel.calls[-1] == ("power_off",)


def test_late_tag_is_waited_for() -> None:
    kernel = BootKernel(errors={("mount", "rootfs"): [22, 22, 22]})
    boot(kernel)
    assert kernel.calls[-1][0] == "execute"
    assert 0 < kernel.clock < 0.1


def test_missing_tag_is_named_with_the_existing_tags() -> None:
    kernel = BootKernel(
        "rootfs=gone initrd.timeout=3",
        errors={("mount", "gone"): 22},
        files={"/sys/fs/virtiofs/0/tag": "rootfs\n", "/sys/fs/virtiofs/1/tag": "data\n"},
    )
    boot(kernel)
    assert "no tag gone after 3 s" in kernel.output
    assert "rootfs, data" in kernel.output
    assert 3 <= kernel.clock < 3.1


def test_mount_of_a_missing_tag_is_tried_about_once_per_second() -> None:
    # The kernel logs each mount that fails, and its log must still show the message of /init.
    kernel = CountingKernel("initrd.timeout=60", errors={("mount", "rootfs"): 22})
    boot(kernel)
    assert "no tag rootfs after 60 s" in kernel.output
    assert 60 <= kernel.attempts < 90


def test_mount_is_tried_soon_after_a_device_appears() -> None:
    kernel = CountingKernel("initrd.timeout=60", errors={("mount", "rootfs"): 22})

    def plug_in_device(clock: float) -> None:
        if clock > 30.5:
            kernel.files[f"{DEVICES}/virtio0"] = ""
            kernel.errors.clear()

    kernel.after_sleep = plug_in_device
    boot(kernel)
    assert kernel.calls[-1][0] == "execute"
    assert 30.5 < kernel.clock < 30.6


@pytest.mark.parametrize(("timeout", "tag_appears_at"), [(1, 0.3), (2, 1.5), (10, 9.5)])
def test_tag_that_appears_before_the_deadline_is_mounted(
    timeout: int, tag_appears_at: float
) -> None:
    options = f"initrd.timeout={timeout}"
    kernel = CountingKernel(options, errors={("mount", "rootfs"): 22}, files={DEVICES + "/v0": ""})

    def add_tag(clock: float) -> None:
        if clock > tag_appears_at:
            kernel.errors.clear()

    kernel.after_sleep = add_tag
    boot(kernel)
    assert kernel.calls[-1][0] == "execute"
    assert tag_appears_at < kernel.clock <= timeout + 0.1


def test_tag_that_appears_between_the_mount_and_the_tag_list_is_mounted() -> None:
    files = {"/sys/fs/virtiofs/0/tag": "rootfs\n"}
    kernel = BootKernel(errors={("mount", "rootfs"): [22]}, files=files)
    boot(kernel)
    assert kernel.calls[-1][0] == "execute"
    assert kernel.clock == 0


def test_virtio_devices_on_pci_without_virtio_pci_fail_the_boot_at_once() -> None:
    files = {
        "/sys/bus/platform/drivers/virtio-mmio/bind": "",
        "/sys/bus/pci/devices/0000:00:02.0/vendor": "0x1af4\n",
    }
    kernel = BootKernel(errors={("mount", "rootfs"): 22}, files=files)
    del kernel.files[f"{TRANSPORT}/bind"]
    boot(kernel)
    assert "mkvirtinitrd --module virtio_pci" in kernel.output
    assert kernel.clock == 0


def test_boot_without_a_virtio_transport_fails_at_once() -> None:
    kernel = BootKernel(errors={("mount", "rootfs"): 22})
    del kernel.files[f"{TRANSPORT}/bind"]
    boot(kernel)
    assert "virtio_pci" in kernel.output
    assert kernel.clock == 0


@pytest.mark.parametrize(
    ("number", "text"),
    [
        pytest.param(19, "this kernel has no virtiofs", id="ENODEV"),
        pytest.param(16, "use each tag once", id="EBUSY"),
        pytest.param(13, "Permission denied", id="EACCES"),
    ],
)
def test_mount_errors_other_than_a_missing_tag_fail_the_boot_at_once(
    number: int, text: str
) -> None:
    kernel = BootKernel(errors={("mount", "rootfs"): number})
    boot(kernel)
    assert text in kernel.output
    assert kernel.clock == 0


def test_einval_for_an_existing_tag_is_reported_as_a_bad_option() -> None:
    files = {"/sys/fs/virtiofs/0/tag": "rootfs\n"}
    kernel = BootKernel("rootflags=nonsense", errors={("mount", "rootfs"): 22}, files=files)
    boot(kernel)
    assert "rootflags=" in kernel.output
    assert kernel.clock == 0


def test_module_that_fails_to_load_is_reported_and_the_boot_continues() -> None:
    files = {f"{MODULES}/{name}.ko": "" for name in ("000-a", "001-b-c", "002-d")}
    kernel = BootKernel(errors={("load_module", f"{MODULES}/001-b-c.ko"): 8}, files=files)
    boot(kernel)
    loaded = [call[1] for call in kernel.calls_named("load_module")]
    assert loaded == [f"{MODULES}/000-a.ko", f"{MODULES}/002-d.ko"]
    assert "001-b-c.ko" in kernel.output
    assert kernel.calls[-1][0] == "execute"


def test_module_that_is_already_loaded_is_not_reported() -> None:
    kernel = BootKernel(errors={"load_module": 17}, files={f"{MODULES}/a.ko": ""})
    boot(kernel)
    assert kernel.output == ""


@pytest.mark.parametrize(
    ("action", "last_call"),
    [
        ("poweroff", ("power_off",)),
        ("panic", ("exit", 1)),
    ],
)
def test_failed_boot_ends_as_initrd_onfail_selects(action: str, last_call: Call) -> None:
    kernel = BootKernel(f"initrd.onfail={action}", errors={("mount", "rootfs"): 5})
    boot(kernel)
    assert kernel.calls[-1] == last_call


@pytest.mark.parametrize(
    ("action", "last_call"), [("poweroff", ("power_off",)), ("panic", ("exit", 1))]
)
@pytest.mark.parametrize("invalid", ["mount=../x", "initrd.timeout=x", "ip=nonsense:x"])
def test_onfail_takes_effect_beside_an_option_that_is_invalid(
    action: str, last_call: Call, invalid: str
) -> None:
    for cmdline in (f"{invalid} initrd.onfail={action}", f"initrd.onfail={action} {invalid}"):
        kernel = BootKernel(cmdline)
        boot(kernel)
        assert kernel.calls[-1] == last_call
        assert "cannot understand the kernel command line" in kernel.output
        assert not kernel.calls_named("execute")


def test_onfail_shell_runs_a_shell_in_the_mounted_root() -> None:
    kernel = BootKernel("initrd.onfail=shell mount=a", errors={("mount", "a"): 5})
    boot(kernel)
    assert ("chroot", "/sysroot") in kernel.calls
    assert kernel.calls[-1][:3] == ("execute", "/bin/sh", [b"sh"])


def test_onfail_shell_without_a_mounted_root_powers_off() -> None:
    kernel = BootKernel("initrd.onfail=shell", errors={("mount", "rootfs"): 5})
    boot(kernel)
    assert kernel.calls[-1] == ("power_off",)
    assert "no root is mounted" in kernel.output


def test_invalid_option_fails_the_boot_before_the_root_is_mounted() -> None:
    kernel = BootKernel("mount=../x")
    boot(kernel)
    assert "mount=../x" in kernel.output
    assert ("rootfs", "/sysroot") not in mounts(kernel)


def test_messages_are_written_to_the_console_when_the_kernel_is_quiet() -> None:
    printk = {"/proc/sys/kernel/printk": "3 4 1 7\n"}
    kernel = BootKernel("mount=", files=printk)
    boot(kernel)
    assert {fd for fd, _ in kernel.written} == {2, 99}


def test_messages_that_the_kernel_prints_are_not_written_to_the_console() -> None:
    printk = {"/proc/sys/kernel/printk": "7 4 1 7\n"}
    kernel = BootKernel("mount=", files=printk)
    boot(kernel)
    assert {fd for fd, _ in kernel.written} == {99}


def test_console_log_level_is_remembered_after_proc_is_unmounted() -> None:
    kernel = BootKernel(files={"/proc/sys/kernel/printk": "7 4 1 7\n"})
    log = Log(kernel)  # type: ignore[arg-type]
    log.open()
    log.warn("one")
    del kernel.files["/proc/sys/kernel/printk"]
    log.warn("two")
    assert {fd for fd, _ in kernel.written} == {99}


def test_target_inherits_no_descriptor_of_init() -> None:
    kernel = BootKernel()
    boot(kernel)
    assert sorted(kernel.closed) == list(range(1, kernel.opened + 1))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param({"process": 77}, "not PID 1", id="not PID 1"),
        pytest.param({"filesystem": 0xEF53}, "not an initramfs", id="ext4 root"),
        pytest.param(
            {"files": {"/proc/self": ""}}, "/proc is mounted", id="/proc mounted, as in a container"
        ),
    ],
)
def test_init_refuses_to_run_outside_an_initramfs(change: dict[str, Any], text: str) -> None:
    kernel = FakeKernel()
    for name, value in change.items():
        setattr(kernel, name, value)
    assert text in reason_to_refuse(kernel)  # type: ignore[arg-type]
    assert kernel.calls == []


def test_init_runs_in_an_initramfs() -> None:
    assert reason_to_refuse(FakeKernel()) == ""  # type: ignore[arg-type]
