"""What a command finds in its machine."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from initrd.command import Command
from testbed import assets
from tests.boot.machine import Share
from tests.boot.ports import Ended, run

pytestmark = pytest.mark.boot

PASSWD = "root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/ash\n"
GROUP = "root:x:0:\nusers:x:100:\naudio:x:29:ann\n"
LOOK = """
section() { echo "=== $1"; }
section id; id -u; id -g; id -G
section where; pwd; umask
section environment; tr '\\0' '\\n' </proc/$$/environ | grep -v ^LONG=
section long; echo ${#LONG}
section arguments; for word; do echo "<$word>"; done
section stat; cut -d' ' -f4,6,7 /proc/$$/stat; echo $$
section descriptors; ls /proc/$$/fd
section signals; grep -E 'Sig(Blk|Ign)' /proc/self/status | cut -f2
section mounts; cat /proc/mounts
section left; ls -a / | grep -E '^(initrd.*|init|\\.initrd)$'
section network; cat /sys/class/net/lo/flags
section name; hostname
section again; echo opened >/dev/stdout; cat /dev/stdin
section init; readlink /proc/1/exe; ls -l /proc/1/fd 2>/dev/null | wc -l
"""


@dataclass
class Surroundings:
    """What a command printed."""

    ended: Ended

    def __getitem__(self, heading: str) -> list[str]:
        parts = ("\n" + self.ended.stdout.decode("utf-8", "surrogateescape")).split("\n=== ")
        bodies = {head: body for head, _, body in (part.partition("\n") for part in parts[1:])}
        return bodies[heading].splitlines()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    top = tmp_path_factory.mktemp("root")
    assets.make_busybox_root(str(top))
    (top / "etc/passwd").write_text(PASSWD)
    (top / "etc/group").write_text(GROUP)
    (top / "etc/hostname").write_text("box\n")
    (top / "home/ann").mkdir(parents=True)
    top.chmod(0o755)
    return str(top)


@pytest.fixture(scope="module")
def ann(root: str, tmp_path_factory: pytest.TempPathFactory) -> Surroundings:
    directory = str(tmp_path_factory.mktemp("machine"))
    words = (b"sh", b"-c", LOOK.encode(), b"look", b"", b"two words", b"\xff\n\"'$")
    environ = (b"A=b=c", b"ODD=\xfe", b"LONG=" + b"x" * 100_000)
    command = Command(words, environ, b"/home/ann", b"ann")
    return Surroundings(run(command, directory, b"standard input\n", root=root))


def test_it_is_who_was_asked_for(ann: Surroundings) -> None:
    assert ann["id"] == ["1000", "100", "100 29"]
    assert ann["where"] == ["/home/ann", "0022"]


def test_its_environment_is_what_was_given_and_what_a_login_adds(ann: Surroundings) -> None:
    assert sorted(ann["environment"]) == [
        "A=b=c",
        "HOME=/home/ann",
        "LOGNAME=ann",
        "ODD=\udcfe",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SHELL=/bin/ash",
        "USER=ann",
    ]
    assert ann["long"] == ["100000"]


def test_its_arguments_are_any_bytes(ann: Surroundings) -> None:
    assert ann["arguments"] == ["<>", "<two words>", "<\udcff", "\"'$>"]


def test_it_is_a_child_of_pid_1_and_leads_a_session_without_a_terminal(ann: Surroundings) -> None:
    (stat, pid) = ann["stat"]
    assert stat.split() == ["1", pid, "0"]
    assert ann["descriptors"] == ["0", "1", "2"]
    assert ann["signals"] == ["0" * 16] * 2


def test_it_has_cgroups_a_loopback_and_a_name(ann: Surroundings) -> None:
    assert "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime 0 0" in ann["mounts"]
    assert ann["network"] == ["0x9"]  # IFF_UP, IFF_LOOPBACK
    assert ann["name"] == ["box"]


def test_it_can_open_its_streams_again_though_it_is_not_root(ann: Surroundings) -> None:
    assert ann["again"] == ["opened", "standard input"]


def test_nothing_of_the_image_is_left(ann: Surroundings) -> None:
    assert ann["left"] == []


def test_nothing_goes_to_the_console(ann: Surroundings) -> None:
    assert ann.ended.message == "exit 0"
    assert ann.ended.stderr == b""
    assert "initrd:" not in ann.ended.console


def test_a_share_is_there_and_written_to_when_the_machine_is_off(root: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    script = "echo $(cat /run/mnt/data/given) and back >/run/mnt/data/made; dd if=/dev/zero "
    script += "of=/run/mnt/data/big bs=1M count=30 2>/dev/null; cd /run/mnt/data; sleep 1000 &"
    (tmp_path / "data/given").write_text("there")
    shares = (Share("data", str(tmp_path / "data")),)
    command = Command((b"sh", b"-c", os.fsencode(script)))
    ended = run(command, str(tmp_path / "m"), root=root, shares=shares, append="mount=data")
    assert (ended.message, ended.stderr) == ("exit 0", b"")
    assert (tmp_path / "data/made").read_text() == "there and back\n"
    assert (tmp_path / "data/big").stat().st_size == 30 << 20
    assert "initrd:" not in ended.console
