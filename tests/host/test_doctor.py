"""--doctor: its findings are the errors that a launch would raise, and warnings."""

import os
import resource
import socket
from pathlib import Path

import pytest
from pytest import MonkeyPatch

from initrd.command import Command
from initrd.host.chrootvm import run
from initrd.host.doctor import (
    MISSING,
    OK,
    WARNING,
    Finding,
    doctor,
    examine,
    format_findings,
    format_verdict,
    free_memory,
    missing_finding,
)
from initrd.host.machine import locate
from initrd.host.machine.cli import parse
from initrd.host.machine.config import Machine
from initrd.host.machine.guest_modules import GuestModules
from initrd.host.machine.launch import plan_launch
from initrd.host.qemu import loopback
from initrd.host.qemu.argv import Disk, PublishedPort
from initrd.host.system.hosterror import HostError
from initrd.host.virtiofsd import sandbox, submounts
from initrd.options import Share
from tests.host.conftest import root_share, write_program
from tests.host.image.module_trees import write_build_tree


def environment(folder: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(folder), "PATH": "/nowhere"}


def findings(machine: Machine, folder: Path) -> dict[str, Finding]:
    """Return the findings by subject."""
    return {one.subject: one for one in examine(machine, environment(folder))}


def states(machine: Machine, folder: Path) -> dict[str, str]:
    """Return the states of the findings by subject."""
    return {name: one.state for name, one in findings(machine, folder).items()}


def test_named_pipes_in_the_root_are_findings(machine: Machine, tmp_path: Path) -> None:
    dep = Path(machine.root.source, "usr/lib/modules/6.1/modules.dep")
    dep.unlink()
    os.mkfifo(dep)
    finding = findings(machine, tmp_path)["modules"]
    assert finding.state == MISSING
    assert finding.text == f"cannot read {dep}: it is no regular file but a named pipe"


def test_module_directory_that_depmod_has_not_seen_is_a_warning(
    machine: Machine, tmp_path: Path
) -> None:
    modules = Path(machine.root.source, "usr/lib/modules/6.1")
    (modules / "modules.dep").unlink()
    finding = findings(machine, tmp_path)["/lib/modules"]
    assert finding.state == WARNING
    assert finding.text.endswith("the root's /lib/modules/6.1 has no modules.dep")
    assert finding.hint == "depmod 6.1, run in the root"


def test_module_that_cannot_be_read_is_a_finding(machine: Machine, tmp_path: Path) -> None:
    modules = Path(machine.root.source, "usr/lib/modules/6.1")
    (modules / "modules.dep").write_text("virtiofs.ko:\n")
    (modules / "modules.builtin").write_text("a/virtio_pci.ko\n")
    os.mkfifo(modules / "virtiofs.ko")
    finding = findings(machine, tmp_path)["modules"]
    assert finding.state == MISSING
    assert finding.text.endswith("/virtiofs.ko: it is no regular file but a named pipe")


def test_launchable_machine_has_ok_findings_and_boots(machine: Machine, tmp_path: Path) -> None:
    everything = findings(machine.replace(init="busybox", memory=96 << 20), tmp_path)
    everything.pop("permissions", None)  # depends on the user who runs the test
    assert {name: finding.text for name, finding in everything.items() if finding.state == OK} == {
        "architecture": os.uname().machine,
        "kernel": f"6.1 ({machine.root.source}/usr/lib/modules/6.1/vmlinuz)",
        "modules": "none is needed: all is built into the kernel",
        "/lib/modules": "the root has it",
        "init": "/usr/sbin/busybox",
        "/init": f"{machine.init_program} (0 kB)",
        "virtiofsd": f"{machine.virtiofsd}, the one in Rust",
        "QEMU": f"{machine.qemu}, version 9.9",
        "accelerator": "none (--accel tcg)",
        "memory": everything["memory"].text,
        "--warm": "a command can start from a template",
    }
    assert format_verdict(everything.values()) == "it will boot"


C_VIRTIOFSD = "echo '-o source=PATH -o killpriv_v2/no_killpriv_v2'"


def test_weaker_confinement_setuid_bits_and_submounts_are_warnings(
    machine: Machine, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    modules = Path(machine.root.source, "usr/lib/modules")
    with (modules / "6.1/modules.builtin").open("a") as file:
        file.write("a/overlay.ko\n")
    (modules / "6.1").rename(modules / "5.10.0-1")
    monkeypatch.setattr(sandbox, "find_namespace_problem", lambda *, root: "EPERM")
    monkeypatch.setattr(submounts, "find_submounts", lambda top: (f"{top}/dev",))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    shares = (Share("data", source=str(tmp_path)),)
    machine = machine.replace(
        overlay="ram", shares=shares, virtiofsd=write_program(tmp_path / "c", C_VIRTIOFSD)
    )
    found = findings(machine, tmp_path)
    assert found["permissions"].state == MISSING
    assert found["permissions"].hint.endswith(
        "; or --unprotected-read-only, if the guest's root may write there"
    )
    found = findings(machine.replace(unprotected_read_only=True), tmp_path)
    assert found["permissions"].state == OK
    for subject, beginning in {
        "sandbox": f"root in the guest can write to {machine.root.source}: ",
        "setuid bits": "a file that a user of the guest empties by opening it keeps its setuid",
        "submounts": f"the guest sees no mounts in {machine.root.source}, because ",
    }.items():
        assert found[subject].state == WARNING
        assert found[subject].text.startswith(beginning)


def test_doctor_prints_missing_findings_and_returns_1(
    machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert doctor(machine.replace(qemu="/nowhere/qemu"), environment(tmp_path)) == 1
    assert "missing  QEMU         cannot run /nowhere/qemu: no such" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"root": root_share("/nowhere")}, "kernel"),
        ({"kernel": "/nowhere/vmlinuz"}, "kernel"),
        ({"module": ("nosuch",)}, "modules"),
        ({"network": True}, "modules"),
        ({"overlay": "ram"}, "modules"),
        ({"command": Command((b"true",))}, "modules"),
        ({"modules": "/nowhere"}, "modules"),
        ({"init": "nosuch"}, "init"),
        ({"init_program": "/nowhere/init"}, "/init"),
        ({"init_program": "/etc/passwd"}, "/init"),
        ({"virtiofsd": "/etc/passwd"}, "virtiofsd"),
        ({"virtiofsd": "/bin/true"}, "virtiofsd"),
        ({"qemu": "/nowhere/qemu"}, "QEMU"),
        ({"qemu": "no-such-qemu"}, "QEMU"),
        ({"arch": "s390x", "accel": "kvm"}, "accelerator"),
    ],
)
def test_finding_has_the_error_that_a_launch_raises(
    machine: Machine, tmp_path: Path, changes: dict[str, object], subject: str
) -> None:
    changed = machine.replace(**changes)
    with pytest.raises(HostError) as error:
        plan_launch(changed, environment(tmp_path))
    assert findings(changed, tmp_path)[subject] == missing_finding(subject, error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"root": root_share("/srv", writable=True), "overlay": "ram"},
        {"shares": (Share("a", source="/a"), Share("a", source="/b"))},
        {"append": ("mount=../x",)},
        {"arguments": ("--",)},
        {"arch": "vax"},
    ],
)
def test_contradicting_or_invalid_options_raise_and_are_no_finding(
    machine: Machine, tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(HostError):
        examine(machine.replace(**changes), environment(tmp_path))


def test_missing_root_qemu_and_init_program_are_all_reported(
    machine: Machine, tmp_path: Path
) -> None:
    broken = machine.replace(root=root_share("/nowhere"), qemu="/nowhere", init_program="/nowhere")
    missing = [name for name, state in states(broken, tmp_path).items() if state == MISSING]
    assert missing == ["kernel", "init", "/init", "permissions", "QEMU"]
    assert format_verdict(examine(broken, environment(tmp_path))) == (
        "it will not boot: see kernel, init, /init, permissions, QEMU"
    )


def test_init_is_looked_up_in_shares_too(machine: Machine, tmp_path: Path) -> None:
    write_program(tmp_path / "share/a/run")
    shares = (
        Share("s", source=f"{tmp_path}/share"),
        Share("t", "/srv/x", source=f"{tmp_path}/share"),
    )
    machine = machine.replace(shares=shares)
    for path, state in {
        "/run/mnt/s/a/run": OK,
        "/srv/x/a/run": OK,
        "/srv/xa/run": MISSING,
        "/run/mnt/s/b": MISSING,
    }.items():
        assert states(machine.replace(init=path), tmp_path)["init"] == state


def test_disks_that_can_be_used_are_named(machine: Machine, tmp_path: Path) -> None:
    builtin = Path(machine.root.source, "usr/lib/modules/6.1/modules.builtin")
    builtin.write_text(builtin.read_text() + "a/virtio_blk.ko\n")
    (tmp_path / "disk").write_text("data")
    path = str(tmp_path / "disk")
    found = findings(machine.replace(disk=(Disk(path, writable=False),)), tmp_path)
    assert (found["disks"].state, found["disks"].text) == (OK, f"{path} (read-only)")
    assert found["modules"].state == OK
    missing = findings(machine.replace(disk=(Disk(f"{path}2"),)), tmp_path)["disks"]
    assert (missing.state, missing.text) == (
        MISSING,
        f"cannot use {path}2 as a disk: No such file or directory",
    )


def test_image_of_the_overlay_cannot_be_a_further_disk(machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(1024 + 56) + b"\x53\xef")
    path = str(image)
    found = findings(machine.replace(overlay=path, disk=(Disk(path),)), tmp_path)
    assert (found["overlay"].state, found["disks"].state) == (OK, MISSING)
    assert "another disk of this machine" in found["disks"].text


def test_port_of_the_host_that_is_in_use_is_missing(machine: Machine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        published = machine.replace(network="user", publish=(PublishedPort("127.0.0.1", port, 80),))
        finding = findings(published, tmp_path)["ports"]
        assert (finding.state, finding.text) == (
            MISSING,
            f"cannot publish 127.0.0.1:{port}: Address already in use",
        )
        assert findings(machine.replace(gdb=port), tmp_path)["gdb"].state == MISSING
    finding = findings(published, tmp_path)["ports"]
    assert (finding.state, finding.text) == (OK, f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("user", "without the services on the host's loopback"),
        ("host", "with the services on the host's loopback"),
    ],
)
def test_network_is_with_or_without_the_hosts_loopback(
    machine: Machine, tmp_path: Path, network: str, text: str
) -> None:
    finding = findings(machine.replace(network=network), tmp_path)["network"]
    assert (finding.state, finding.text) == (OK, text)
    assert "network" not in findings(machine, tmp_path)


def test_a_host_that_cannot_close_its_loopback_is_missing_something(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "_CALLS", {})
    finding = findings(machine.replace(network="user"), tmp_path)["network"]
    assert finding.state == MISSING
    assert "--net=host" in finding.hint


def test_symbols_for_gdb_are_named_or_a_warning(machine: Machine, tmp_path: Path) -> None:
    of_gdb = machine.replace(gdb=0)
    assert findings(of_gdb, tmp_path)["gdb"].state == WARNING
    kernel = tmp_path / "vmlinux"
    kernel.write_text("")
    finding = findings(of_gdb.replace(kernel=str(kernel)), tmp_path)["gdb"]
    assert (finding.state, finding.text) == (OK, f"symbols in {kernel}")


def test_doctor_checks_a_machine_with_a_name_without_starting_it(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    options = (f"--qemu={machine.qemu}", f"--virtiofsd={machine.virtiofsd}", "--accel=tcg")
    words = ("--name", "one", "--doctor", *options, "--kernel=/nowhere", machine.root.source)
    assert run(parse(words)) == 1
    assert "missing  kernel       cannot use /nowhere" in capfd.readouterr().out


def test_gdb_keeps_a_command_from_starting_from_a_template(
    machine: Machine, tmp_path: Path
) -> None:
    finding = findings(machine.replace(gdb=0), tmp_path)["--warm"]
    assert (finding.state, "--gdb waits" in finding.text) == (WARNING, True)


def test_init_that_only_an_overlay_file_may_have_is_a_warning(
    machine: Machine, tmp_path: Path
) -> None:
    machine = machine.replace(init="/new", overlay="/kept.img")
    assert states(machine, tmp_path)["init"] == WARNING


def test_overlay_file_that_cannot_be_used_or_made_is_missing(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "no ext4").write_text("")
    for path, why in {
        f"{tmp_path}/no ext4": "it does not hold an ext4 file system",
        "/nowhere/disk": "its directory cannot be written to",
    }.items():
        finding = findings(machine.replace(overlay=path), tmp_path)["overlay"]
        assert (finding.state, why in finding.text) == (MISSING, True)


@pytest.mark.parametrize(
    ("word", "state"), [("busybox", OK), ("/usr/sbin/busybox", OK), ("nosuch", WARNING)]
)
def test_command_that_the_root_lacks_is_a_warning(
    machine: Machine, tmp_path: Path, word: str, state: str
) -> None:
    machine = machine.replace(command=Command((os.fsencode(word),)))
    assert states(machine, tmp_path)["command"] == state


@pytest.mark.parametrize(("shell", "state"), [("bin/sh", OK), ("bin/zsh", WARNING)])
def test_root_without_the_default_shell_is_a_warning(
    machine: Machine, tmp_path: Path, shell: str, state: str
) -> None:
    root = tmp_path / "other root"
    (root / "bin").mkdir(parents=True)
    (root / shell).write_text("")
    (root / shell).chmod(0o755)
    machine = machine.replace(command=Command(()), root=machine.root.replace(source=str(root)))
    assert states(machine, tmp_path)["command"] == state


def test_kernel_without_virtio_console_is_a_warning_about_commands(
    machine: Machine, tmp_path: Path
) -> None:
    assert states(machine, tmp_path)["-- COMMAND"] == WARNING


@pytest.mark.parametrize("size", [1 << 60, 64 << 20])
def test_memory_above_the_free_or_below_the_least_is_a_warning(
    machine: Machine, tmp_path: Path, size: int
) -> None:
    assert states(machine.replace(memory=size), tmp_path)["memory"] == WARNING


def test_low_limit_of_open_files_is_reported_where_virtiofsd_needs_them(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 20_000
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert findings(machine, tmp_path)["open files"].state == WARNING
    assert "open files" not in states(machine.replace(virtiofsd="/nowhere"), tmp_path)
    limit = 60
    assert findings(machine, tmp_path)["permissions"].state == MISSING
    limit = resource.RLIM_INFINITY
    assert "open files" not in states(machine, tmp_path)


def test_kernel_without_a_modules_directory_is_a_warning(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_text("")
    machine = machine.replace(kernel=f"{tmp_path}/vmlinuz")
    assert states(machine, tmp_path)["modules"] == WARNING


def test_qemu_without_vhost_user_fs_is_reported(machine: Machine, tmp_path: Path) -> None:
    machine = machine.replace(qemu=write_program(tmp_path / "small/qemu", "echo version 7"))
    assert findings(machine, tmp_path)["QEMU"].text.endswith("it has no vhost-user-fs device")


def test_table_has_a_line_for_each_finding_and_one_for_its_hint() -> None:
    both = (Finding("a", OK, "fine"), Finding("b", MISSING, "gone", "this"))
    margin = " " * 22
    assert format_findings(both) == [
        "ok       a            fine",
        "missing  b            gone",
        f"{margin}try: this",
    ]


def test_free_memory_is_limited_by_the_host_and_by_control_groups(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   4000 kB\n")
    arguments = (str(tmp_path / "proc"), str(tmp_path / "groups"))
    assert free_memory(*arguments) == 4000 << 10
    (tmp_path / "proc/self/cgroup").write_text("1:name=x:/other\n0::/a/b\n")
    for group, limit, used in (("a", "max", 1), ("a/b", "3000000", 1000000)):
        (tmp_path / "groups" / group).mkdir(parents=True)
        (tmp_path / "groups" / group / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "groups" / group / "memory.stat").write_text(f"anon {used}\nfile 9\n")
    assert free_memory(*arguments) == 2000000


EIGHT_SHARES = tuple(Share(f"share{number}", source="/") for number in range(8))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arch": "aarch64"}, "there are no templates for aarch64"),
        ({"qemu_arguments": ("-snapshot",)}, "--qemu-arg may add what cannot be saved"),
        ({"shares": EIGHT_SHARES}, "there are more than 8 shares"),
    ],
)
def test_reason_why_a_command_cannot_start_from_a_template_is_a_warning(
    machine: Machine, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    finding = findings(machine.replace(**changes), tmp_path)["--warm"]
    assert finding.state == WARNING
    assert reason in finding.text


@pytest.mark.parametrize(
    ("script", "state", "text"),
    [
        ('cd "$2/lib/modules/$3" && : >modules.dep.bin', OK, "will be mounted, from {tree}"),
        ("echo broken >&2; exit 1", WARNING, "modprobe will find none for 9.9: exit status 1: "),
        ("", WARNING, "modprobe will find none for 9.9: it is not on the path"),
    ],
    ids=["depmod works", "depmod fails", "no depmod"],
)
def test_modules_of_a_build_tree_are_ok_as_far_as_depmod_works(  # noqa: PLR0917
    script: str, state: str, text: str, machine: Machine, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "find_namespace_problem", lambda *, root: "")
    find_program = locate.find_program

    def find_depmod(name: str, environment: dict[str, str], hint: str) -> str:
        if name == "depmod" and not script:
            raise HostError("cannot find depmod", "it is not on the path", hint)
        return f"{tmp_path}/depmod" if name == "depmod" else find_program(name, environment, hint)

    monkeypatch.setattr(locate, "find_program", find_depmod)
    write_program(tmp_path / "depmod", script)
    builtin = ("virtiofs.ko", "virtio_pci.ko", "overlay.ko", "virtio_console.ko")
    tree = write_build_tree(
        tmp_path / "tree", {"a": ("license=GPL",)}, release="9.9", builtin=builtin
    )
    found = findings(machine.replace(kernel=tree, overlay="ram"), tmp_path)
    assert found["kernel"].text == f"9.9 ({tree}/arch/x86/boot/bzImage)"
    assert (found["modules"].state, found["/lib/modules"].state) == (OK, state)
    assert found["/lib/modules"].text.startswith(text.format(tree=tree))


def test_root_without_a_place_for_modules_is_a_warning(machine: Machine, tmp_path: Path) -> None:
    builtin = ("virtiofs.ko", "virtio_pci.ko", "virtio_console.ko")
    tree = write_build_tree(
        tmp_path / "tree", {"a": ("license=GPL",)}, release="9.9", builtin=builtin
    )
    os.symlink("usr/lib", f"{machine.root.source}/lib")
    found = findings(machine.replace(kernel=tree), tmp_path)["/lib/modules"]
    assert found.state == WARNING
    assert found.text.endswith("/lib/modules of the root has other versions only")
    assert f"mkdir -p '{machine.root.source}/usr/lib/modules/9.9'" in found.hint


def test_modules_count_as_devices_for_a_start_from_a_template(
    machine: Machine, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "find_namespace_problem", lambda *, root: "")
    monkeypatch.setattr(
        "initrd.host.doctor.find_guest_modules",
        lambda *_: GuestModules(shares=(Share("a", source="/"), Share("b", source="/"))),
    )
    monkeypatch.setattr("initrd.host.doctor.stage", lambda found, *_: found)
    for count, state in ((5, OK), (6, WARNING)):
        shares = tuple(Share(f"s{number}", source="/srv") for number in range(count))
        assert states(machine.replace(shares=shares), tmp_path)["--warm"] == state


def test_cache_that_cannot_be_used_is_a_warning(machine: Machine, tmp_path: Path) -> None:
    assert "cache" not in findings(machine, tmp_path)
    (tmp_path / "initrd/images").symlink_to(tmp_path)
    found = findings(machine, tmp_path)["cache"]
    assert found.state == WARNING
    assert found.text == (
        "nothing is kept, so each start takes longer: "
        f"cannot use the directory {tmp_path}/initrd/images: "
        f"{tmp_path}/initrd/images is a symbolic link"
    )
    assert found.hint == "another XDG_CACHE_HOME; with sudo: sudo -H"
