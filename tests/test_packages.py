"""tools/packages installs the missing packages only, or prints their names.

The script runs with a PATH that holds stand-ins for programs; `apt-get` logs its arguments, and an
installation creates `readelf`.
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


class FakeHost:
    """A directory as PATH, with stand-ins for the named programs."""

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

    def apt_get_calls(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()


def test_host_with_all_packages_installs_none(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, ("readelf", "apt-get"), user=0)
    run = host.run("build")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert host.apt_get_calls() == []


def test_root_on_debian_installs_the_missing_packages(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, ("apt-get",), user=0)
    run = host.run("build")
    assert run.returncode == 0
    assert host.apt_get_calls() == [
        "noninteractive apt-get update -q",
        "noninteractive apt-get install -q -y --no-install-recommends binutils",
    ]


@pytest.mark.parametrize(
    ("programs", "user", "advice"),
    [
        pytest.param(("apt-get",), 1000, "as root: apt-get install", id="Debian, ordinary user"),
        pytest.param((), 0, "Install what your distribution calls these", id="no apt-get"),
    ],
)
def test_missing_packages_are_printed_where_they_cannot_be_installed(
    tmp_path: Path, programs: tuple[str, ...], user: int, advice: str
) -> None:
    host = FakeHost(tmp_path, programs, user)
    run = host.run("build")
    assert run.returncode == 1
    assert "missing (Debian's package names): binutils\n" in run.stderr
    assert advice in run.stderr
    assert host.apt_get_calls() == []


def test_package_still_missing_after_the_installation_is_printed(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, ("apt-get",), user=0)
    os.remove(host.bin / "cc")
    run = host.run("build")
    assert run.returncode == 1
    assert "gcc libc6-dev" in run.stderr


@pytest.mark.parametrize(
    ("group", "packages"),
    [
        ("foreign", {"qemu-user-static", "mmdebstrap"}),
        ("check", {"qemu-user-static", "mmdebstrap", "qemu-system-x86", "qemu-system-arm"}),
    ],
)
def test_group_has_the_packages_for_other_architectures(
    tmp_path: Path, group: str, packages: set[str]
) -> None:
    run = FakeHost(tmp_path, ("readelf",), user=1000).run(group)
    assert packages <= set(run.stderr.split("names):")[1].split("\n")[0].split())


def test_unknown_group_prints_the_usage(tmp_path: Path) -> None:
    run = FakeHost(tmp_path, (), user=0).run("everything")
    assert run.returncode == 2
    assert "usage" in run.stderr
