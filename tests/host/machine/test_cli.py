"""chrootvm's command line: what belongs to it, and what to the program in the guest."""

from pathlib import Path

import pytest

from initrd.errors import HostError
from initrd.host.machine.cli import OPTIONS, Arguments, parse, parse_seconds, parse_size, usage
from initrd.host.machine.config import (
    Machine,
    parse_machine,
    parse_share,
)
from initrd.options import Share
from tests.host.conftest import root_share


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["/srv"], Arguments({}, "/srv"), id="a root"),
        pytest.param(["/srv", "/init", "a"], Arguments({}, "/srv", ("/init", "a")), id="init"),
        pytest.param(
            ["/srv", "sh", "--rw", "--", "-c"],
            Arguments({}, "/srv", ("sh", "--rw", "--", "-c")),
            id="options after the root are not ours",
        ),
        pytest.param(
            ["/srv", "--", "ls", "-l", "--"],
            Arguments({}, "/srv", (), ("ls", "-l", "--")),
            id="a command",
        ),
        pytest.param(["--", "-srv", "x"], Arguments({}, "-srv", ("x",)), id="root with a dash"),
        pytest.param(
            ["--", "--rw", "--", "--rw"], Arguments({}, "--rw", (), ("--rw",)), id="and a command"
        ),
        pytest.param(["-"], Arguments({}, "-"), id="a single dash is a name"),
        pytest.param(
            ["--rw", "--memory", "1G", "--memory=2G", "/"],
            Arguments({"--rw": [()], "--memory": [("1G",), ("2G",)]}, "/"),
            id="values",
        ),
        pytest.param(
            ["--overlay", "/srv"], Arguments({"--overlay": [("",)]}, "/srv"), id="overlay alone"
        ),
        pytest.param(
            ["--overlay=a=b", "/srv"], Arguments({"--overlay": [("a=b",)]}, "/srv"), id="and a file"
        ),
        pytest.param(
            ["--mount", "a", "/x", "--mount", "b", "--rw", "/"],
            Arguments({"--mount": [("a", "/x"), ("b", "--rw")]}, "/"),
            id="two values",
        ),
        pytest.param(
            ["--append", "--", "/srv"], Arguments({"--append": [("--",)]}, "/srv"), id="dash value"
        ),
        pytest.param(["--append", ""], Arguments({"--append": [("",)]}), id="nothing to add"),
        pytest.param([], Arguments({}), id="nothing"),
    ],
)
def test_the_words(words: list[str], expected: Arguments) -> None:
    assert parse(words) == expected


@pytest.mark.parametrize(
    ("words", "why"),
    [
        pytest.param(["--memry", "1G", "/"], r"--memry.*\ntry: --memory", id="misspelt"),
        pytest.param(["-v", "/"], "unknown option -v", id="no short options"),
        pytest.param(["--rw=yes", "/"], "takes no value", id="a value too many"),
        pytest.param(["--memory"], "write --memory SIZE", id="a value missing"),
        pytest.param(["--mount", "a"], r"write --mount TAG PATH", id="one of two missing"),
        pytest.param(["/", "--"], "no command after --", id="no command"),
        pytest.param([""], "it is empty", id="an empty root"),
        pytest.param(["--overlay=", "/"], "--overlay: its value is empty", id="an empty file"),
        pytest.param(["--mount", "a", "", "/"], "--mount: its value is empty", id="empty path"),
        pytest.param(["--user", "", "/"], "--user: its value is empty", id="an empty user"),
    ],
)
def test_a_mistake_says_what_to_write(words: list[str], why: str) -> None:
    with pytest.raises(HostError, match=why):
        parse(words)


def test_the_help_has_every_option() -> None:
    assert all(option.name in usage() for option in OPTIONS)


def test_what_is_not_asked_for_has_a_default() -> None:
    assert parse_machine(parse(["/srv"])) == Machine(root_share("/srv"))


@pytest.mark.parametrize(
    ("words", "quiet"),
    [
        (["/"], True),
        (["--verbose", "/"], True),  # the console is the terminal
        (["--verbose", "/", "--", "true"], False),
        (["--debug", "/", "--", "true"], False),
    ],
)
def test_the_kernel_speaks_where_it_is_listened_to(words: list[str], quiet: bool) -> None:
    assert parse_machine(parse(words)).quiet is quiet


def test_every_wish_reaches_the_machine() -> None:
    words = ["--rw", "--memory=512M", "--cpus=2", "--accel=tcg", "--machine=pc", "--arch=arm64"]
    words += ["--kernel=K", "--modules=M", "--module=a", "--module=b", "--init=I", "--append=x=1"]
    words += ["--net", "--debug", "--qemu=Q", "--virtiofsd=V", "--qemu-arg=-s", "/srv", "sh", "-x"]
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
        init_program="I",
        append=("x=1",),
        network=True,
        debug=True,
        quiet=False,
        qemu="Q",
        virtiofsd="V",
        qemu_arguments=("-s",),
    )


def test_an_overlay_is_in_memory_or_in_a_file() -> None:
    assert parse_machine(parse(["--overlay", "/srv"])).overlay == "ram"
    assert parse_machine(parse(["--overlay=/a/ram", "/srv"])).overlay == "/a/ram"
    assert parse_machine(parse(["--overlay=ram", "/srv"])).overlay.endswith("/ram")


@pytest.mark.parametrize(
    ("where", "share"),
    [
        pytest.param("/srv/data", Share("t", source="/srv/data"), id="path"),
        pytest.param("/srv/data:/mnt", Share("t", "/mnt", source="/srv/data"), id="destination"),
        pytest.param("/srv/a:b", Share("t", source="/srv/a:b"), id="a colon in a name"),
        pytest.param("a:b:/c:d/e", Share("t", "/c:d/e", source="a:b"), id="colons everywhere"),
        pytest.param("/a:/b:/c", Share("t", "/c", source="/a:/b"), id="the last one counts"),
        pytest.param("/:/host", Share("t", "/host", source="/"), id="the whole machine"),
        pytest.param(":/x", Share("t", source=":/x"), id="no path"),
    ],
)
def test_a_destination_comes_after_a_colon_and_begins_with_a_slash(
    where: str, share: Share
) -> None:
    assert parse_share("t", where, writable=True) == share


def test_a_directory_of_that_very_name_is_what_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "a:/b"
    path.mkdir(parents=True)
    assert parse_share("t", str(path), writable=False) == Share(
        "t", source=str(path), writable=False
    )


def test_shares_come_with_their_mode() -> None:
    machine = parse_machine(parse(["--mount-ro", "a", "/a", "--mount", "b", "/b:/c", "/srv"]))
    assert set(machine.shares) == {
        Share("a", source="/a", writable=False),
        Share("b", "/c", source="/b"),
    }


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512 << 20), ("2g", 2 << 30), ("1T", 1 << 40), ("4096K", 4 << 20)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "512", "0G", "-1G", "1.5G", "1GB", "\u0663G", "1 G", f"{'9' * 5000}G"]
)
def test_what_is_no_size_is_not_guessed(text: str) -> None:
    with pytest.raises(HostError, match="as a size: write 512M or 2G"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "soon"])
def test_what_is_no_time_is_refused(text: str) -> None:
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
    ],
)
def test_wishes_that_make_no_sense(words: list[str], why: str) -> None:
    with pytest.raises(HostError, match=why):
        parse_machine(parse(words))
