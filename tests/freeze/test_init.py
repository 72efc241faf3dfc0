"""dist/init as an ELF file, and as an ordinary program outside an initramfs."""

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
MAX_SIZE = 12_000_000  # bytes
REFUSAL = "initrd: this is not PID 1; /init only runs as the first program of an initramfs\n"


def run_init(*arguments: str, cwd: Path = TOP) -> "subprocess.CompletedProcess[str]":
    command = [INIT, *arguments]
    return subprocess.run(command, check=False, cwd=cwd, text=True, capture_output=True)


def readelf(*options: str) -> str:
    command = ["readelf", "-W", *options, INIT]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def members(archive: str) -> dict[str, bytes]:
    found = lsinitramfs.read_entries((FREEZE / archive).read_bytes())
    return {os.fsdecode(entry.path): entry.data for entry in found}


def symbols(listing: str, *, defined: bool) -> set[str]:
    """Return the symbols in the output of `readelf --dyn-syms`, without their versions."""
    rows = [line.split() for line in listing.splitlines() if re.match(r" *\d+: ", line)]
    return {row[7].split("@")[0] for row in rows if len(row) > 7 and (row[6] != "UND") == defined}


def test_init_has_no_interpreter_header() -> None:
    assert "INTERP" not in readelf("-l")


def test_init_is_executable_and_within_its_size_limit() -> None:
    assert INIT.stat().st_size <= MAX_SIZE
    assert os.access(INIT, os.X_OK)


def test_init_does_not_contain_the_build_directory() -> None:
    assert os.fsencode(TOP) not in INIT.read_bytes()


def test_init_contains_its_archives_and_modules() -> None:
    program = INIT.read_bytes()
    for part in ("libraries.cpio", "extensions.cpio", "modules.bin"):
        assert (FREEZE / part).read_bytes() in program


def test_packed_libraries_are_the_linked_ones() -> None:
    libraries = members("libraries.cpio")
    needed = set(re.findall(r"NEEDED.*\[(.+)\]", readelf("-d")))
    assert bool(libraries) == bool(needed)
    assert libraries.keys() - {"ld.so"} >= needed
    assert not libraries.keys() & members("extensions.cpio").keys()


def test_modules_of_a_start_are_codecs_and_our_own() -> None:
    found = json.loads((FREEZE / "analysis.json").read_text())
    others = {name for name, _ in found["start"] if not name.startswith("initrd")}
    assert all(name.startswith("encodings") for name in others), others
    assert found["start_extensions"] == []


def test_init_exports_all_python_symbols_that_packed_extensions_use(tmp_path: Path) -> None:
    exported = symbols(readelf("--dyn-syms"), defined=True)
    for name, data in members("extensions.cpio").items():
        (tmp_path / name).write_bytes(data)
        command = ["readelf", "-W", "--dyn-syms", tmp_path / name]
        listing = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        used = {symbol for symbol in symbols(listing, defined=False) if "Py" in symbol}
        assert used <= exported, f"{name} lacks {used - exported}"


def test_version_option_prints_the_version() -> None:
    done = run_init("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"initrd {initrd.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no argument"),
        pytest.param(["--help"], id="unknown option"),
        pytest.param(["--version", "--version"], id="additional argument"),
        pytest.param(["--versionx"], id="argument that begins with --version"),
        pytest.param(["a" * 100_000], id="long argument"),
    ],
)
def test_init_refuses_to_run_as_an_ordinary_program(arguments: Iterable[str]) -> None:
    done = run_init(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", REFUSAL)


def test_refusal_changes_no_file_and_no_mount(tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        mounts = Path("/proc/self/mountinfo").read_text()
        return os.listdir("/"), os.listdir("/tmp"), os.listdir(tmp_path), mounts

    before = state()
    assert run_init(cwd=tmp_path).returncode == 2
    assert state() == before


def test_init_refuses_without_standard_streams() -> None:
    command = f"exec {INIT} <&- >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 2


def test_import_lists_are_disjoint_and_cover_a_command_session() -> None:
    analysis = json.loads((FREEZE / "analysis.json").read_text())
    boot, session = analysis["boot_imports"], analysis["session_imports"]
    assert set(boot).isdisjoint(session)
    assert session[-1] == "initrd.guest.command.session"
    assert {"initrd.guest.command.control", "initrd.guest.command.supervise"} <= set(session)
    assert set(boot + session) <= {name for name, _ in analysis["start"]}
