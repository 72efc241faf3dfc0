"""tools/packages: installs what is missing and nothing else, or says what that is.

It runs with a PATH of the test's own, where `apt-get` only writes down what it is asked for.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parent.parent / "tools" / "packages"
FAKE_APT = """#!/bin/sh
echo "$DEBIAN_FRONTEND apt-get $*" >>"{log}"
case $1 in install) : >"{bin}/readelf"; /bin/chmod +x "{bin}/readelf" ;; esac
"""


class Host:
    """A machine with just these programs."""

    def __init__(self, directory: Path, programs: tuple[str, ...], user: int) -> None:
        self.bin = directory / "bin"
        self.log = directory / "log"
        self.bin.mkdir()
        self.log.touch()
        (self.bin / "sh").symlink_to("/bin/sh")
        self.add("id", f"#!/bin/sh\necho {user}\n")
        self.add("cc", f"#!/bin/sh\necho {directory}/libc.a\n")
        (directory / "libc.a").touch()
        for program in programs:
            apt = FAKE_APT.format(log=self.log, bin=self.bin)
            self.add(program, apt if program == "apt-get" else "#!/bin/sh\n")

    def add(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": str(self.bin), "PYTHON": sys.executable}
        command = ["/bin/sh", str(PACKAGES), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environ)

    def asked(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()


def test_where_all_is_there_nothing_happens(tmp_path: Path) -> None:
    host = Host(tmp_path, ("readelf", "apt-get"), user=0)
    run = host.run("build")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert host.asked() == []


def test_root_on_debian_gets_what_is_missing(tmp_path: Path) -> None:
    host = Host(tmp_path, ("apt-get",), user=0)
    run = host.run("build")
    assert run.returncode == 0
    assert host.asked() == [
        "noninteractive apt-get update -q",
        "noninteractive apt-get install -q -y --no-install-recommends binutils",
    ]


@pytest.mark.parametrize(
    ("programs", "user", "advice"),
    [
        pytest.param(("apt-get",), 1000, "as root: apt-get install", id="an ordinary user"),
        pytest.param((), 0, "Install what your distribution calls these", id="no Debian"),
    ],
)
def test_others_are_told(tmp_path: Path, programs: tuple[str, ...], user: int, advice: str) -> None:
    host = Host(tmp_path, programs, user)
    run = host.run("build")
    assert run.returncode == 1
    assert "missing (Debian's package names): binutils\n" in run.stderr
    assert advice in run.stderr
    assert host.asked() == []


def test_what_cannot_be_installed_is_told(tmp_path: Path) -> None:
    host = Host(tmp_path, ("apt-get",), user=0)
    os.remove(host.bin / "cc")
    run = host.run("build")
    assert run.returncode == 1
    assert "gcc libc6-dev" in run.stderr


def test_an_unknown_group_is_refused(tmp_path: Path) -> None:
    run = Host(tmp_path, (), user=0).run("everything")
    assert run.returncode == 2
    assert "usage" in run.stderr
