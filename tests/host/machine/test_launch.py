"""A planned launch: the files that are found, and the command lines that are written."""

import os
import pwd
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from initrd.cmdline import parse
from initrd.command import Command
from initrd.host.machine import locate
from initrd.host.machine.cmdline import command_line, template_command_line
from initrd.host.machine.config import Machine
from initrd.host.machine.launch import (
    Launch,
    Warm,
    all_shares,
    check_machine,
    find_release,
    format_commands,
    plan_launch,
)
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Disk, PublishedPort
from initrd.host.system.hosterror import HostError
from initrd.host.virtiofsd import sandbox
from initrd.options import Share
from tests.host.conftest import root_share, write_program
from tests.host.qemu.kernel_images import PACKED, bzimage

ARCH = find_arch("x86_64")


def test_launch_has_programs_kernel_shares_and_image(machine: Machine, tmp_path: Path) -> None:
    launch = plan_launch(machine, {"XDG_CACHE_HOME": str(tmp_path)})
    assert launch.setup.program == machine.qemu
    assert launch.virtiofsd.family == "rust"
    assert launch.kernel.endswith("6.1/vmlinuz")
    assert [share.tag for share in launch.setup.shares] == ["rootfs"]
    assert b"ELF and more" in os.pread(launch.setup.initrd.descriptor, 10000, 0)
    os.close(launch.setup.initrd.descriptor)


def test_kernel_is_started_from_its_image_for_a_random_address(
    machine: Machine, tmp_path: Path
) -> None:
    image = Path(machine.root.source, "usr/lib/modules/6.1/vmlinuz")
    image.write_bytes(bzimage(PACKED))
    for kaslr in (False, True):
        launch = plan_launch(machine.replace(kaslr=kaslr), {"XDG_CACHE_HOME": str(tmp_path)})
        assert launch.is_uncompressed is not kaslr
        for descriptor in launch.setup.descriptors:
            os.close(descriptor)


def plan(machine: Machine, tmp_path: Path, release: str = "6.1") -> Launch:
    """Plan a launch, and close its files. `release`: of the kernel in the root."""
    modules = Path(machine.root.source, f"usr/lib/modules/{release}/modules.builtin")
    modules.write_text(modules.read_text() + "a/virtio_console.ko\na/virtio_net.ko\n")
    launch = plan_launch(machine, {"XDG_CACHE_HOME": str(tmp_path)})
    for descriptor in launch.setup.descriptors:
        os.close(descriptor)
    return launch


def test_only_a_command_with_warm_is_to_start_from_a_template(
    machine: Machine, tmp_path: Path
) -> None:
    command = Command((b"true",))
    for changes in ({"warm": True}, {"command": command}, {}):
        launch = plan(machine.replace(**changes), tmp_path)
        assert launch.warm is None
        assert launch.setup.generation == ""
    launch = plan(machine.replace(warm=True, command=command, cache_limit=5), tmp_path)
    assert launch.warm == Warm(
        template_command_line(machine, ARCH, "tcg"),
        "6.1",
        f"{tmp_path}/initrd/templates",
        5,
    )
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", launch.setup.generation)


def test_machines_have_random_generations_and_addresses(machine: Machine, tmp_path: Path) -> None:
    machine = machine.replace(warm=True, command=Command((b"true",)), network="user")
    setups = [plan(machine, tmp_path).setup for _ in range(4)]
    assert len({setup.generation for setup in setups}) == 4
    assert len({setup.mac for setup in setups}) == 4
    assert all(re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", setup.mac) for setup in setups)


def test_machine_without_a_network_has_no_address(machine: Machine, tmp_path: Path) -> None:
    assert plan(machine, tmp_path).setup.mac == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"root": root_share("/other", writable=True)},
        {"shares": (Share("a b", "/mnt", source="/srv"),)},
        {"init": "/bin/other", "arguments": ("a", "b")},
        {"overlay": "ram"},
        {"overlay": "/srv/disk.img"},
        {"network": True},
        {"network": True, "publish": (PublishedPort("127.0.0.1", 8080, 80),)},
        {"disk": (Disk("/srv/disk.img"),)},
        {"command": Command((b"true",))},
    ],
)
def test_command_line_of_a_template_does_not_depend_on(
    machine: Machine, changes: dict[str, object]
) -> None:
    one, other = (
        template_command_line(each, ARCH, "tcg") for each in (machine, machine.replace(**changes))
    )
    assert one == other


@pytest.mark.parametrize(
    "changes", [{"debug": True}, {"quiet": False}, {"append": ("a=1",)}, {"cpus": 2}]
)
def test_command_line_of_a_template_depends_on(
    machine: Machine, changes: dict[str, object]
) -> None:
    one, other = (
        template_command_line(each, ARCH, "tcg") for each in (machine, machine.replace(**changes))
    )
    assert one != other


def test_command_line_of_a_template_begins_as_that_of_a_machine_and_has_no_root(
    machine: Machine,
) -> None:
    words = template_command_line(machine.replace(debug=True), ARCH, "tcg").split(" ")
    assert words[-2:] == ["debug", "pcie_ports=compat"]
    boot = command_line(machine, ARCH, "tcg").split(" ")
    assert boot[: len(words) - 2] == words[:-2]
    assert "panic=-1" in words
    assert not [word for word in words if word.startswith(("root=", "mount=", "init=", "ip="))]


def test_formatted_commands_are_quoted_for_a_shell(machine: Machine, tmp_path: Path) -> None:
    launch = plan_launch(machine, {"XDG_CACHE_HOME": str(tmp_path)})
    virtiofsd, qemu = format_commands(launch)
    os.close(launch.setup.initrd.descriptor)
    assert f"'--shared-dir={machine.root.source}'" in virtiofsd
    assert virtiofsd.endswith(" &")
    assert "path=rootfs.sock" in qemu


def test_formatted_commands_remark_on_the_archive_with_the_command(
    machine: Machine, tmp_path: Path
) -> None:
    with open(
        f"{machine.root.source}/usr/lib/modules/6.1/modules.builtin", "a", encoding="ascii"
    ) as file:
        file.write("a/virtio_console.ko\n")
    machine = machine.replace(command=Command((b"true",), ()))
    launch = plan_launch(machine, {"XDG_CACHE_HOME": str(tmp_path)})
    os.close(launch.setup.initrd.descriptor)
    _, remark, qemu = format_commands(launch)
    assert "COMMAND in a small archive behind the image" in remark
    assert "path=initrd.stdout.sock,server=on,wait=off" in qemu
    # The image is not in the cache, because its sources are too new; so its name is made up.
    assert " -initrd initrd.img " in qemu


def test_guest_parses_the_options_that_the_host_wrote(machine: Machine) -> None:
    share = Share("a tag", "/mnt/b c", writable=False, source="/srv")
    machine = machine.replace(
        root=machine.root.replace(writable=True),
        shares=(share, Share("b", source="/b")),
        debug=True,
        network="user",
    )
    text = command_line(machine.replace(init="/my init", arguments=("-c", "echo a b")), ARCH, "tcg")
    options = parse(text)
    assert text.endswith('init="/my init" -- -c "echo a b"')
    assert [(s.tag, s.path, s.writable) for s in options.shares] == [
        ("a tag", "/mnt/b c", False),
        ("b", "", True),
    ]
    assert (options.debug, options.ip, options.root.writable) == (True, ("dhcp",), True)


@pytest.mark.parametrize(
    ("network", "expected"),
    [("", (False, False)), ("user", (True, False)), ("host", (True, True))],
)
def test_network_reaches_the_hosts_loopback_only_on_request(
    machine: Machine, network: str, expected: tuple[bool, bool], tmp_path: Path
) -> None:
    launch = plan(machine.replace(network=network), tmp_path)
    setup = launch.setup
    assert (setup.network, setup.reaches_loopback) == expected
    assert ("refuses the guest's connections" in str(format_commands(launch))) is (
        network == "user"
    )


@pytest.mark.parametrize(
    ("overlay", "device"), [("", ""), ("ram", "ram"), ("/srv/disk.img", "vda")]
)
def test_overlay_file_is_the_first_disk_in_the_guest(
    machine: Machine, overlay: str, device: str
) -> None:
    machine = machine.replace(overlay=overlay, disk=(Disk("/further"),))
    assert parse(command_line(machine, ARCH, "tcg")).overlay == device
    assert [disk.overlay for disk in machine.disks] == [True, False][device != "vda" :]


@pytest.mark.parametrize("writable", [True, False])
def test_printed_machine_with_a_writable_disk_has_a_monitor(
    machine: Machine, tmp_path: Path, *, writable: bool
) -> None:
    launch = plan(machine, tmp_path)
    disk = Disk("/srv/disk.img", writable=writable)
    shown = format_commands(launch.replace(setup=launch.setup.replace(disks=(disk,))))
    assert any("id=qmp,path=qmp.sock,server=on,wait=off" in line for line in shown) is writable


def test_kernel_for_gdb_is_at_the_address_it_was_linked_for(machine: Machine) -> None:
    for gdb, expected in ((None, False), (0, True), (1234, True)):
        words = command_line(machine.replace(gdb=gdb), ARCH, "tcg").split()
        assert ("nokaslr" in words) is expected


def test_further_disk_needs_its_driver(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no module virtio_blk"):
        plan_launch(machine.replace(disk=(Disk("/a"),)), {"XDG_CACHE_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("gdb", "stream"),
    [(0, "socket,id=gdb,path=gdb.sock"), (1234, "socket,id=gdb,host=127.0.0.1,port=1234")],
)
def test_formatted_commands_wait_for_gdb(
    machine: Machine, tmp_path: Path, gdb: int, stream: str
) -> None:
    launch = plan(machine.replace(gdb=gdb), tmp_path)
    assert (
        f"-chardev {stream},server=on,wait=off -gdb chardev:gdb -S" in format_commands(launch)[-1]
    )


def test_kernel_command_line_has_quiet_by_default(machine: Machine) -> None:
    assert "quiet" in command_line(machine, ARCH, "tcg").split()
    assert "quiet" not in command_line(machine.replace(quiet=False), ARCH, "tcg").split()


def test_single_emulated_processor_has_no_local_apic_timer(machine: Machine) -> None:
    assert "nolapic_timer" in command_line(machine, ARCH, "tcg").split()
    assert "nolapic_timer" not in command_line(machine, ARCH, "kvm").split()
    assert "nolapic_timer" not in command_line(machine.replace(cpus=2), ARCH, "tcg").split()
    assert "nolapic_timer" not in command_line(machine.replace(machine="pc"), ARCH, "tcg").split()


def test_appended_words_come_before_init(machine: Machine) -> None:
    text = command_line(machine.replace(append=("a=1 b", "c"), arguments=("x",)), ARCH, "tcg")
    assert text.index("a=1 b c") < text.index("init=")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param(('say "hi"',), "cannot hold quotes", id="quotes"),
        pytest.param(("a", "--"), "does not hand the argument", id="two dashes"),
        pytest.param(("a\nb",), "line breaks", id="a line break"),
        pytest.param(("x" * 3000,), "kernels read 2047", id="too long"),
        pytest.param(("ä" * 1000,), "kernels read 2047", id="too long in bytes"),
    ],
)
def test_arguments_that_a_command_line_cannot_hold_are_refused(
    machine: Machine, arguments: tuple[str, ...], why: str
) -> None:
    with pytest.raises(HostError, match=why):
        command_line(machine.replace(arguments=arguments), ARCH, "tcg")


def port(number: int, address: str = "127.0.0.1") -> PublishedPort:
    return PublishedPort(address, number, 80)


def test_host_port_may_be_published_at_two_addresses() -> None:
    ports = (port(80), port(80, "127.0.0.2"), port(81))
    check_machine(Machine(root_share("/srv"), network="user", publish=ports))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"shares": (Share("a", source="/a"), Share("a", source="/b"))}, "two directories as a"),
        ({"shares": (Share("rootfs", source="/a"),)}, "two directories as rootfs"),
        ({"root": root_share("/srv", writable=True), "overlay": "ram"}, "writable twice"),
        ({"publish": (port(80),)}, r"the guest has no network\ntry: add --net"),
        ({"publish": (port(80), port(80)), "network": True}, "127.0.0.1:80 is published already"),
        (
            {"publish": (port(80), port(80, "0.0.0.0")), "network": True},
            "cannot publish 0.0.0.0:80: 127.0.0.1:80 is published already",
        ),
        ({"gdb": 0, "kaslr": True}, "cannot use --kaslr with --gdb"),
    ],
)
def test_contradicting_options_are_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(HostError, match=why):
        check_machine(Machine(root_share("/srv")).replace(**changes))


def test_shared_directories_are_absolute_and_without_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    machine = Machine(
        root_share(f"{tmp_path}/link"), shares=(Share("a", source=f"{tmp_path}/link/."),)
    )
    assert {share.source for share in all_shares(machine)} == {str(tmp_path)}


def test_bare_name_of_init_is_looked_up_in_the_root(machine: Machine) -> None:
    assert locate.find_target(machine.root.source, "busybox") == "/usr/sbin/busybox"
    assert locate.find_target(machine.root.source, "/any/thing") == "/any/thing"


def test_kernel_is_inherited_by_qemu_so_that_another_file_in_its_place_is_not_booted(
    machine: Machine, tmp_path: Path
) -> None:
    image = Path(machine.root.source, "usr/lib/modules/6.1/vmlinuz")
    image.write_text("checked")
    launch = plan_launch(machine, {"XDG_CACHE_HOME": str(tmp_path)})
    image.unlink()
    image.symlink_to("/etc/passwd")
    with open(launch.setup.kernel.inherited_path, encoding="ascii") as file:
        assert file.read() == "checked"
    assert str(image) in format_commands(launch)[-1]
    for descriptor in launch.setup.descriptors:
        os.close(descriptor)


@pytest.mark.parametrize("is_named", [False, True])
def test_special_file_as_a_kernel_is_refused(
    machine: Machine, tmp_path: Path, *, is_named: bool
) -> None:
    image = Path(machine.root.source, "usr/lib/modules/6.1/vmlinuz")
    image.unlink()
    os.mkfifo(image)
    if is_named:
        machine = machine.replace(kernel=str(image))
    why = "no regular file but a named pipe" if is_named else "no kernel in"
    with pytest.raises(HostError, match=why):
        plan_launch(machine, {"XDG_CACHE_HOME": str(tmp_path)})


@pytest.mark.parametrize(("init", "why"), [("nosuch", "no such program"), ("a/b", "absolute")])
def test_error_about_an_invalid_init_has_its_name(machine: Machine, init: str, why: str) -> None:
    with pytest.raises(HostError, match=f"{init}.*{why}"):
        locate.find_target(machine.root.source, init)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"qemu": "/nowhere/qemu"}, "cannot run /nowhere/qemu: no such file"),
        ({"qemu": "no-such-qemu"}, "cannot find no-such-qemu: it is not on the path"),
        ({"virtiofsd": "/etc/passwd"}, "cannot run /etc/passwd: it is not executable"),
        ({"init_program": "/nowhere/init"}, "cannot find the /init of the image"),
        ({"kernel": "/nowhere/vmlinuz"}, "there is no such file"),
        ({"arch": "vax"}, "'vax'"),
        ({"module": ("nosuch",)}, "no module nosuch"),
        ({"append": ("mount=../x",)}, "cannot use the kernel command line: mount=../x"),
    ],
)
def test_error_about_a_missing_file_has_its_name(
    machine: Machine, tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    with pytest.raises(HostError, match=why):
        plan_launch(
            machine.replace(**changes), {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/nowhere"}
        )


def test_program_is_found_on_the_path(tmp_path: Path) -> None:
    path = write_program(tmp_path / "bin/tool")
    environment = {"PATH": f"/nowhere:{tmp_path}/bin"}
    assert locate.find_program("tool", environment, "") == path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/c"}, "/c/initrd"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/initrd"),
        ({"HOME": "/h"}, "/h/.cache/initrd"),
    ],
)
def test_cache_is_in_the_directory_of_the_xdg_specification(
    environment: dict[str, str], expected: str
) -> None:
    assert locate.cache_directory(environment) == expected


def test_init_program_may_come_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "init").write_text("")
    assert locate.find_init("", {"INITRD_INIT": f"{tmp_path}/init"}) == f"{tmp_path}/init"


def test_virtiofsd_asks_only_a_kernel_that_has_killpriv_for_it(
    machine: Machine, tmp_path: Path
) -> None:
    script = "echo '-o source=PATH -o killpriv_v2/no_killpriv_v2'"
    virtiofsd = write_program(tmp_path / "in-c", script)
    machine = machine.replace(virtiofsd=virtiofsd, root=machine.root.replace(writable=True))
    new = format_commands(plan(machine, tmp_path))
    assert ",killpriv_v2' &" in new[0]
    modules = Path(machine.root.source, "usr/lib/modules")
    (modules / "6.1").rename(modules / "5.10.0-1-amd64")
    (modules / "6.1").mkdir()
    old = format_commands(plan(machine, tmp_path, "5.10.0-1-amd64"))
    assert old[0].startswith("# a file that a user of the guest empties by opening it keeps its")
    assert ",killpriv_v2" not in old[1]


def test_launch_without_namespaces_has_a_warning_and_no_sandbox(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "find_namespace_problem", lambda *, root: "EPERM")
    monkeypatch.setattr(sandbox, "has_capability", lambda _: False)
    launch = plan(machine, tmp_path)
    assert launch.warnings[0].startswith("virtiofsd gets no namespaces (EPERM) and runs without a")
    assert "--readonly --sandbox=none" in format_commands(launch)[0]


@pytest.mark.parametrize(
    ("releases", "expected"), [(("", "6.1"), "6.1"), (("Image", "6.1"), "6.1"), (("Image",), "")]
)
def test_release_of_the_kernel_is_the_first_with_a_version(
    releases: tuple[str, ...], expected: str
) -> None:
    assert find_release(*releases) == expected


def test_launch_without_a_safe_cache_has_a_warning_in_one_line(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "xdg/initrd").mkdir(0o700, parents=True)
    for name in ("images", "kernels", "virtiofsd"):
        (tmp_path / "xdg/initrd" / name).symlink_to(tmp_path)
    launch = plan(machine, tmp_path / "xdg")
    assert re.fullmatch(
        rf"going without a cache, which takes longer: cannot use the directory {tmp_path}/xdg/"
        r"initrd/\w+: .* is a symbolic link; try: another XDG_CACHE_HOME; with sudo: sudo -H",
        launch.warnings[0],
    )
    assert not launch.remarks
    assert launch.setup.initrd.path == "initrd.img"


def test_launch_without_a_usable_cache_has_a_remark(machine: Machine) -> None:
    modules = Path(machine.root.source, "usr/lib/modules/6.1/modules.builtin")
    modules.write_text(modules.read_text() + "a/virtio_console.ko\n")
    launch = plan_launch(machine, {"XDG_CACHE_HOME": "/proc/nowhere"})
    for descriptor in launch.setup.descriptors:
        os.close(descriptor)
    assert launch.remarks[0].startswith("going without a cache, which takes longer: cannot use")
    assert not [text for text in launch.warnings if "cache" in text]
    assert format_commands(launch)[0] == f"# {launch.remarks[0]}"


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "x"}, {"HOME": "./x"}], ids=str)
def test_home_that_is_no_absolute_path_is_that_of_the_password_database(
    home: dict[str, str],
) -> None:
    expected = pwd.getpwuid(os.getuid()).pw_dir
    relative = dict.fromkeys(("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"), "r")
    for environment in (home, {**home, **relative}):
        assert locate.cache_directory(environment) == f"{expected}/.cache/initrd"
        assert locate.state_directory(environment) == f"{expected}/.local/state/initrd"
        assert locate.runtime_directory(environment) == ""


@pytest.mark.parametrize(
    "entry", [KeyError(), "relative", ""], ids=["no entry", "relative", "empty"]
)
def test_user_without_a_home_directory_has_the_root(
    entry: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getpwuid(_: int) -> SimpleNamespace:
        if isinstance(entry, KeyError):
            raise entry
        return SimpleNamespace(pw_dir=entry)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    assert locate.cache_directory({"HOME": "x"}) == "/.cache/initrd"


def test_private_runtime_directory_is_used_by_its_absolute_path_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir(0o700)
    monkeypatch.chdir(tmp_path)
    assert locate.runtime_directory({"XDG_RUNTIME_DIR": f"{tmp_path}/run"}) == f"{tmp_path}/run"
    assert locate.runtime_directory({"XDG_RUNTIME_DIR": "run"}) == ""
