"""dist/init as a file, and as a program that somebody runs by hand."""

import json
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

import initrd
from initrd.host.image import lsinitramfs

pytestmark = pytest.mark.built

TOP = Path(__file__).parents[2]
INIT = TOP / "dist/init"
FREEZE = TOP / "build/freeze"
LARGEST = 12_000_000  # bytes
USAGE = "initrd: this is not PID 1; /init only runs as the first program of an initramfs\n"


def run(*arguments: str, cwd: Path = TOP) -> "subprocess.CompletedProcess[str]":
    command = [INIT, *arguments]
    return subprocess.run(command, check=False, cwd=cwd, text=True, capture_output=True)


def readelf(*options: str) -> str:
    command = ["readelf", "-W", *options, INIT]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def members(archive: str) -> dict[str, bytes]:
    found = lsinitramfs.read_entries((FREEZE / archive).read_bytes())
    return {os.fsdecode(entry.path): entry.data for entry in found}


def symbols(listing: str, *, defined: bool) -> set[str]:
    """The names in the output of `readelf --dyn-syms`, without their versions."""
    rows = [line.split() for line in listing.splitlines() if re.match(r" *\d+: ", line)]
    return {row[7].split("@")[0] for row in rows if len(row) > 7 and (row[6] != "UND") == defined}


def test_no_interpreter_is_named() -> None:
    assert "INTERP" not in readelf("-l")


def test_it_is_small_and_executable() -> None:
    assert INIT.stat().st_size <= LARGEST
    assert os.access(INIT, os.X_OK)


def test_it_does_not_tell_where_it_was_built() -> None:
    assert os.fsencode(TOP) not in INIT.read_bytes()


def test_what_it_brings_is_inside() -> None:
    program = INIT.read_bytes()
    for part in ("libraries.cpio", "extensions.cpio", "modules.bin"):
        assert (FREEZE / part).read_bytes() in program


def test_a_start_brings_exactly_the_libraries_that_are_linked() -> None:
    libraries = members("libraries.cpio")
    needed = set(re.findall(r"NEEDED.*\[(.+)\]", readelf("-d")))
    assert bool(libraries) == bool(needed)
    assert libraries.keys() - {"ld.so"} >= needed
    assert not libraries.keys() & members("extensions.cpio").keys()


def test_a_start_needs_nothing_but_the_interpreter_and_our_own_modules() -> None:
    found = json.loads((FREEZE / "analysis.json").read_text())
    others = {name for name, _ in found["start"] if not name.startswith("initrd")}
    assert all(name.startswith("encodings") for name in others), others
    assert found["start_extensions"] == []


def test_extension_modules_find_all_of_the_interpreter_that_they_use(tmp_path: Path) -> None:
    ours = symbols(readelf("--dyn-syms"), defined=True)
    for name, data in members("extensions.cpio").items():
        (tmp_path / name).write_bytes(data)
        command = ["readelf", "-W", "--dyn-syms", tmp_path / name]
        listing = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        used = {symbol for symbol in symbols(listing, defined=False) if "Py" in symbol}
        assert used <= ours, f"{name} lacks {used - ours}"


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"initrd {initrd.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["--help"], id="an option"),
        pytest.param(["--version", "--version"], id="too much"),
        pytest.param(["--versionx"], id="almost --version"),
        pytest.param(["a" * 100_000], id="a long argument"),
    ],
)
def test_it_refuses_to_run_as_an_ordinary_program(arguments: Iterable[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", USAGE)


def test_refusing_touches_nothing(tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        mounts = Path("/proc/self/mountinfo").read_text()
        return os.listdir("/"), os.listdir("/tmp"), os.listdir(tmp_path), mounts

    before = state()
    assert run(cwd=tmp_path).returncode == 2
    assert state() == before


def test_it_refuses_without_standard_streams() -> None:
    command = f"exec {INIT} <&- >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 2


def test_what_is_imported_ahead_of_python() -> None:
    analysis = json.loads((FREEZE / "analysis.json").read_text())
    order, session_order = analysis["order"], analysis["session_order"]
    assert set(order).isdisjoint(session_order)
    assert session_order[-1] == "initrd.guest.command.session"
    assert {"initrd.guest.command.control", "initrd.guest.command.supervise"} <= set(session_order)
    assert set(order + session_order) <= {name for name, _ in analysis["start"]}
