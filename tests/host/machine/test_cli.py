"""chrootvm's command line: its options, their values, and the program's own arguments."""

from pathlib import Path

import pytest

from initrd.command import Command
from initrd.host.machine.cli import (
    OPTIONS,
    Arguments,
    parse,
    parse_memory,
    parse_seconds,
    parse_share,
    parse_size,
    usage,
)
from initrd.host.machine.config import Machine, parse_command, parse_machine
from initrd.host.qemu.argv import Disk, PublishedPort
from initrd.host.system.hosterror import HostError
from initrd.options import Share
from tests.host.conftest import root_share


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["/srv"], Arguments({}, "/srv"), id="a root: a login shell"),
        pytest.param(["/srv", "/init", "a"], Arguments({}, "/srv", ("/init", "a")), id="init"),
        pytest.param(
            ["/srv", "sh", "--rw", "--", "-c"],
            Arguments({}, "/srv", ("sh", "--rw", "--", "-c")),
            id="options after the root are of INIT",
        ),
        pytest.param(
            ["/srv", "--", "ls", "-l", "--"],
            Arguments({}, "/srv", (), ("ls", "-l", "--")),
            id="a command",
        ),
        pytest.param(["--", "-srv", "x"], Arguments({}, "-srv", ("x",)), id="root with a dash"),
        pytest.param(
            ["--", "--rw", "--", "--rw"],
            Arguments({}, "--rw", (), ("--rw",)),
            id="root with a dash, and a command",
        ),
        pytest.param(["-"], Arguments({}, "-"), id="a single dash is a name"),
        pytest.param(
            ["--rw", "--memory", "1G", "--memory=2G", "/"],
            Arguments({"--rw": [()], "--memory": [("1G",), ("2G",)]}, "/"),
            id="values after a space and after =",
        ),
        pytest.param(
            ["--overlay", "/srv"],
            Arguments({"--overlay": [("",)]}, "/srv"),
            id="--overlay without a file",
        ),
        pytest.param(
            ["--overlay=a=b", "/srv"],
            Arguments({"--overlay": [("a=b",)]}, "/srv"),
            id="--overlay with a file",
        ),
        pytest.param(
            ["--mount", "a", "/x", "--mount", "b", "--rw", "/"],
            Arguments({"--mount": [("a", "/x"), ("b", "--rw")]}, "/"),
            id="options with two values",
        ),
        pytest.param(
            ["--append", "--", "/srv"],
            Arguments({"--append": [("--",)]}, "/srv"),
            id="a value that is two dashes",
        ),
        pytest.param(["--append", ""], Arguments({"--append": [("",)]}), id="an empty --append"),
        pytest.param([], Arguments({}), id="no words"),
    ],
)
def test_words_are_parsed_into_options_root_and_program(
    words: list[str], expected: Arguments
) -> None:
    assert parse(words) == expected


@pytest.mark.parametrize(
    ("words", "why"),
    [
        pytest.param(["--memry", "1G", "/"], r"--memry.*\ntry: --memory", id="misspelt"),
        pytest.param(["-v", "/"], "unknown option -v", id="no short options"),
        pytest.param(["--rw=yes", "/"], "takes no value", id="a value for a flag"),
        pytest.param(["--memory"], r"write --memory SIZE\[,force\]", id="no value"),
        pytest.param(["--mount", "a"], r"write --mount TAG PATH", id="one value of two"),
        pytest.param(["/", "--"], "no command after --", id="no command after --"),
        pytest.param([""], "it is empty", id="an empty root"),
        pytest.param(
            ["--overlay=", "/"], "--overlay: its value is empty", id="an empty overlay file"
        ),
        pytest.param(
            ["--mount", "a", "", "/"], "--mount: its value is empty", id="an empty path of a share"
        ),
        pytest.param(["--user", "", "/"], "--user: its value is empty", id="an empty user"),
        pytest.param(
            ["--gdb", "1234", "/srv", "--", "true"],
            r"(?s)cannot use 1234 as the root directory: .* written with =\ntry: --gdb=1234 /srv",
            id="the value of --gdb as a word of its own",
        ),
        pytest.param(
            ["--overlay", "/no/disk", "/srv"], "try: --overlay=/no/disk /srv", id="--overlay FILE"
        ),
        pytest.param(
            ["/srv", "--debug"],
            r"use --debug after /srv: options come before ROOTFS\ntry: chrootvm --debug /srv$",
            id="an option behind the root",
        ),
        pytest.param(
            ["/srv", "--mount", "a", "/b", "sh"],
            r"\ntry: chrootvm --mount a /b /srv$",
            id="an option with values behind the root",
        ),
        pytest.param(
            ["/srv", "--memory=2G"], r"\ntry: chrootvm --memory=2G /srv$", id="the same with ="
        ),
        pytest.param(
            ["/srv", "--overlay", "init"], r"\ntry: chrootvm --overlay /srv$", id="--overlay behind"
        ),
        pytest.param(
            ["/srv", "--verbos", "--", "ls"],
            r"unknown option --verbos: options come before ROOTFS\ntry: --verbose",
            id="misspelt behind the root",
        ),
        pytest.param(["/srv", ""], "cannot use '' as INIT: it is empty", id="an empty INIT"),
    ],
)
def test_wrong_words_are_refused_with_a_reason(words: list[str], why: str) -> None:
    with pytest.raises(HostError, match=why):
        parse(words)


@pytest.mark.parametrize("words", [["--list"], ["--in", "x"], ["--stop", "x"]])
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_can_be_given_with_the_actions_on_machines(words: list[str], option: str) -> None:
    assert parse([*words, option]).has(option)


def test_help_lists_each_option() -> None:
    assert all(option.name in usage() for option in OPTIONS)


def test_root_alone_is_a_login_shell_with_the_settings_of_a_command() -> None:
    arguments = parse(["--env=A=b", "--chdir=/tmp", "--user=eve", "/srv"])
    command = parse_command(arguments, {}, tty=())
    assert command == Command((), (b"A=b",), b"/tmp", b"eve")


@pytest.mark.parametrize(
    ("words", "variables"),
    [(["--env=HERE"], (b"HERE=x",)), (["--env=MISSING", "--env=A=HERE"], (b"A=HERE",))],
)
def test_variable_without_a_value_has_the_one_of_the_environment(
    words: list[str], variables: tuple[bytes, ...]
) -> None:
    command = parse_command(parse([*words, "/srv"]), {"HERE": "x"}, tty=())
    assert command == Command((), variables, b"/")


def test_init_is_no_command_and_takes_none_of_its_settings() -> None:
    assert parse_command(parse(["/srv", "init"]), {}, tty=()) is None
    for option in ("--env=A=b", "--chdir=/tmp", "--user=eve"):
        with pytest.raises(HostError, match="not for INIT"):
            parse_command(parse([option, "/srv", "init"]), {}, tty=())


def test_options_that_are_not_given_have_defaults() -> None:
    assert parse_machine(parse(["/srv"])) == Machine(root_share("/srv"))


@pytest.mark.parametrize(
    ("words", "quiet"),
    [
        (["/"], True),
        (["--verbose", "/", "init"], True),  # the console is the terminal
        (["--verbose", "/"], False),
        (["--verbose", "/", "--", "true"], False),
        (["--debug", "/", "--", "true"], False),
    ],
)
def test_kernel_is_quiet_without_debug_or_a_visible_console(words: list[str], quiet: bool) -> None:
    arguments = parse(words)
    assert parse_machine(arguments, parse_command(arguments, {}, tty=())).quiet is quiet


def test_options_set_the_fields_of_the_machine() -> None:
    words = ["--rw", "--memory=512M", "--cpus=2", "--accel=tcg", "--machine=pc", "--arch=arm64"]
    words += ["--kernel=K", "--modules=M", "--module=a", "--module=b", "--init=I", "--append=x=1"]
    words += ["--publish=1:2", "--publish=3:4", "--disk=/a", "--disk=/b,ro", "--gdb=5"]
    words += [
        "--kaslr",
        "--warm",
        "--cache-limit=3G",
        "--net",
        "--debug",
        "--qemu=Q",
        "--virtiofsd=V",
        "--qemu-arg=-s",
        "/srv",
        "sh",
        "-x",
    ]
    assert parse_machine(parse(words)) == Machine(
        root=root_share("/srv", writable=True),
        init="sh",
        arguments=("-x",),
        memory=512 << 20,
        cpus=2,
        accel="tcg",
        machine="pc",
        arch="arm64",
        kernel="K",
        modules="M",
        module=("a", "b"),
        publish=(PublishedPort("127.0.0.1", 1, 2), PublishedPort("127.0.0.1", 3, 4)),
        disk=(Disk("/a"), Disk("/b", writable=False)),
        gdb=5,
        kaslr=True,
        init_program="I",
        append=("x=1",),
        network="user",
        warm=True,
        cache_limit=3 << 30,
        debug=True,
        quiet=False,
        qemu="Q",
        virtiofsd="V",
        qemu_arguments=("-s",),
    )


def test_machine_boots_by_default_and_templates_take_2_gib() -> None:
    machine = parse_machine(parse(["/srv"]))
    assert (machine.warm, machine.cache_limit) == (False, 2 << 30)
    assert Machine(root_share("/srv")).cache_limit == 2 << 30


@pytest.mark.parametrize("value", ["0G", "1", "much"])
def test_limit_of_the_cache_is_a_size(value: str) -> None:
    with pytest.raises(HostError, match="as a size"):
        parse_machine(parse([f"--cache-limit={value}", "/srv"]))


def test_clean_cache_needs_no_root() -> None:
    assert parse(["--clean-cache"]) == Arguments({"--clean-cache": [()]})


def test_overlay_is_in_memory_or_in_a_file() -> None:
    assert parse_machine(parse(["--overlay", "/srv"])).overlay == "ram"
    assert parse_machine(parse(["--overlay=/a/ram", "/srv"])).overlay == "/a/ram"
    assert parse_machine(parse(["--overlay=ram", "/srv"])).overlay.endswith("/ram")


@pytest.mark.parametrize(
    ("text", "share"),
    [
        pytest.param("/srv/data", Share("t", source="/srv/data"), id="path"),
        pytest.param("/srv/data:/mnt", Share("t", "/mnt", source="/srv/data"), id="destination"),
        pytest.param("/srv/a:b", Share("t", source="/srv/a:b"), id="a colon in a name"),
        pytest.param(
            "a:b:/c:d/e", Share("t", "/c:d/e", source="a:b"), id="colons in path and destination"
        ),
        pytest.param(
            "/a:/b:/c", Share("t", "/c", source="/a:/b"), id="two destinations: the last counts"
        ),
        pytest.param("/:/host", Share("t", "/host", source="/"), id="the root of the host"),
        pytest.param(":/x", Share("t", source=":/x"), id="no path before the colon"),
    ],
)
def test_destination_follows_a_colon_and_begins_with_a_slash(text: str, share: Share) -> None:
    assert parse_share("t", text, writable=True) == share


def test_path_with_a_colon_is_whole_where_such_a_directory_is(tmp_path: Path) -> None:
    path = tmp_path / "a:/b"
    path.mkdir(parents=True)
    assert parse_share("t", str(path), writable=False) == Share(
        "t", source=str(path), writable=False
    )


def test_mount_is_writable_and_mount_ro_is_not() -> None:
    machine = parse_machine(parse(["--mount-ro", "a", "/a", "--mount", "b", "/b:/c", "/srv"]))
    assert set(machine.shares) == {
        Share("a", source="/a", writable=False),
        Share("b", "/c", source="/b"),
    }


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512 << 20), ("2g", 2 << 30), ("1T", 1 << 40), ("4096K", 4 << 20)]
)
def test_size_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "512", "0G", "-1G", "1.5G", "1GB", "\u0663G", "1 G", f"{'9' * 5000}G"]
)
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(HostError, match="as a size: write 512M or 2G"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "soon"])
def test_invalid_timeouts_are_refused(text: str) -> None:
    with pytest.raises(HostError, match="as a time"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "ROOTFS is missing"),
        (["--cpus=0", "/srv"], "number of processors"),
        (["--cpus", "9" * 5000, "/srv"], "number of processors"),
        (["--accel=hvf", "/srv"], "one of auto, kvm, tcg"),
        (["--mount", "a:b", "/x", "/srv"], "has a colon"),
        (["--append", "a -- b", "/srv"], "would be lost"),
        (["--append", 'a="b', "/srv"], "close each quote"),
        (["--append", "quiet init=/x", "/srv"], "named after ROOTFS"),
        (["--append", "ro root=/dev/vda", "/srv"], "the root is ROOTFS"),
    ],
)
def test_invalid_values_of_options_are_refused(words: list[str], why: str) -> None:
    with pytest.raises(HostError, match=why):
        parse_machine(parse(words))


def test_each_option_with_a_field_sets_a_field_of_machine() -> None:
    fields = {option.field for option in OPTIONS if option.field}
    assert fields <= set(Machine._fields), "initrd/host/machine/config.py lacks a field"


@pytest.mark.parametrize(
    ("text", "size"),
    [("96M", 96 << 20), ("1G", 1 << 30), ("2G,force", 2 << 30), ("64M,force", 64 << 20)],
)
def test_memory_may_be_forced(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["95M", "64M", "1K"])
def test_too_little_memory_is_refused_with_the_figure(text: str) -> None:
    with pytest.raises(HostError, match=f"less than 96M.*\ntry: --memory 96M, .*{text},force"):
        parse_memory(text)


@pytest.mark.parametrize("text", ["", ",force", "64M,forced", "64M,force,force", "64M, force"])
def test_memory_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(HostError, match="as a size"):
        parse_memory(text)
