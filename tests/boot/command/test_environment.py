"""The environment of a command: its user, variables, arguments, descriptors, mounts."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from initrd.command import Command
from testbed import assets
from tests.boot.command_machine import CommandResult, run
from tests.boot.machine import Share
from tests.boot.start_chrootvm import WARM

pytestmark = pytest.mark.boot

PASSWD = "root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/ash\n"
GROUP = "root:x:0:\nusers:x:100:\naudio:x:29:ann\n"
INSPECT = """
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
class Report:
    """The output of the script INSPECT, by section."""

    ended: CommandResult

    def __getitem__(self, heading: str) -> list[str]:
        parts = ("\n" + self.ended.stdout.decode("utf-8", "surrogateescape")).split("\n=== ")
        bodies = {head: body for head, _, body in (part.partition("\n") for part in parts[1:])}
        return bodies[heading].splitlines()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("root")
    assets.make_busybox_root(str(path))
    (path / "etc/passwd").write_text(PASSWD)
    (path / "etc/group").write_text(GROUP)
    (path / "etc/hostname").write_text("box\n")
    (path / "home/ann").mkdir(parents=True)
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module", params=["cold", "warm"])
def report(
    root: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Report:
    """Run INSPECT as the user ann, in a machine that boots and in one of a template."""
    directory = str(tmp_path_factory.mktemp("machine"))
    words = (b"sh", b"-c", INSPECT.encode(), b"look", b"", b"two words", b"\xff\n\"'$")
    environ = (b"A=b=c", b"ODD=\xfe", b"LONG=" + b"x" * 100_000)
    command = Command(words, environ, b"/home/ann", b"ann")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "warm":
            patch.setenv(WARM, "1")
        return Report(run(command, directory, b"standard input\n", root=root))


def test_command_runs_as_the_given_user_with_its_groups_and_home(report: Report) -> None:
    assert report["id"] == ["1000", "100", "100 29"]
    assert report["where"] == ["/home/ann", "0022"]


def test_command_environment_has_the_given_and_the_login_variables(report: Report) -> None:
    assert sorted(report["environment"]) == [
        "A=b=c",
        "HOME=/home/ann",
        "LOGNAME=ann",
        "ODD=\udcfe",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SHELL=/bin/ash",
        "USER=ann",
    ]
    assert report["long"] == ["100000"]


def test_command_arguments_may_be_any_bytes(report: Report) -> None:
    assert report["arguments"] == ["<>", "<two words>", "<\udcff", "\"'$>"]


def test_command_is_a_child_of_pid_1_and_leads_a_session_without_a_terminal(report: Report) -> None:
    (stat, pid) = report["stat"]
    assert stat.split() == ["1", pid, "0"]
    assert report["descriptors"] == ["0", "1", "2"]
    assert report["signals"] == ["0" * 16] * 2


def test_machine_has_cgroups_a_loopback_interface_and_a_host_name(report: Report) -> None:
    assert "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime 0 0" in report["mounts"]
    assert report["network"] == ["0x9"]  # IFF_UP, IFF_LOOPBACK
    assert report["name"] == ["box"]


def test_unprivileged_command_can_reopen_its_streams(report: Report) -> None:
    assert report["again"] == ["opened", "standard input"]


def test_files_of_the_image_are_deleted(report: Report) -> None:
    assert report["left"] == []


def test_init_prints_nothing_on_the_console(report: Report) -> None:
    assert report.ended.message == "exit 0"
    assert report.ended.stderr == b""
    assert "initrd:" not in report.ended.console


@pytest.mark.usefixtures("start")
def test_files_written_to_a_share_are_complete_after_power_off(root: str, tmp_path: Path) -> None:
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
