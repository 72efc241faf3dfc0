"""The kinds of machines, what has to come of each, and that nothing is left behind them."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from initrd.host import vm
from initrd.record import Record
from testbed import assets
from tests.boot.chrootvm import COMMAND, DEADLINE, chrootvm

_SMALL = ("--memory", "256M")
_PRINT = ("--", "sh", "-c", "echo out; echo err >&2; exit 7")
_RANDOM_END = 4.0  # seconds; a machine may be killed before it boots, meanwhile, and after its end
_COMMANDS = 3  # in one machine with a name


class Place(Record):
    """What a machine gets: the root, directories for its files, and random numbers."""

    root: str
    temporary: Path
    runtime: Path
    data: Path
    rng: random.Random


def check_command(place: Place, *options: str) -> None:
    """Run a command that prints to both streams and has a status."""
    _expect(place, (*options, place.root, *_PRINT), (7, "out\n", "err\n"))


def check_warm_command(place: Place) -> None:
    """Run it in a machine that starts from a template, which the first start makes."""
    check_command(place, "--warm")


def check_init(place: Place) -> None:
    """Boot with a program as process 1; its last output and its status come back."""
    init = ("busybox", "sh", "-c", "echo it is up; exit 5")
    status, output, _ = _run(place, (place.root, *init))
    assert (status, "it is up\n" in output) == (5, True), (status, output)


def check_shares(place: Place) -> None:
    """Copy a file from a read-only share to a writable one."""
    text = str(place.rng.random())
    for name in ("in", "out"):
        (place.data / name).mkdir(exist_ok=True)
    (place.data / "in/file").write_text(text)
    shares = ("--mount-ro", "in", f"{place.data}/in", "--mount", "out", f"{place.data}/out")
    script = "cp /run/mnt/in/file /run/mnt/out/copy; ! touch /run/mnt/in/new 2>/dev/null"
    _expect(place, (*shares, place.root, "--", "sh", "-c", script), (0, "", ""))
    assert (place.data / "out/copy").read_text() == text


def check_overlay(place: Place) -> None:
    """Change the root in memory: the directory on the host stays as it is."""
    script = "echo new >/etc/soak && cat /etc/soak"
    _expect(place, ("--overlay", place.root, "--", "sh", "-c", script), (0, "new\n", ""))
    assert not Path(place.root, "etc/soak").exists()


def check_kill(place: Place) -> None:
    """Kill chrootvm at a random moment, by SIGKILL or a signal that it handles."""
    number = place.rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    warm = place.rng.choice(((), ("--warm",)))
    words = (*_SMALL, *warm, place.root, "--", "sh", "-c", "sleep 1000")
    with chrootvm(*words, folder=place.temporary) as session:
        time.sleep(place.rng.uniform(0, _RANDOM_END))
        session.process.send_signal(number)
        status, _, _ = session.finish()
        assert status in (-number, 128 + number), (number, status)
        assert session.leftovers() == []


def check_named(place: Place) -> None:
    """Give a machine a name, run commands in it, stop it."""
    words = (*_SMALL, "--name", "soak", "--detach", place.root)
    with chrootvm(*words, folder=place.temporary) as owner:
        assert owner.finish() == (0, "", "")
        for number in range(_COMMANDS):
            script = f"echo {number}; exit {number}"
            found = _run_client("--in", "soak", "--", "sh", "-c", script)
            assert found == (number, f"{number}\n", ""), found
        found = _run_client("--stop", "soak")
        assert found == (0, "", ""), found
        assert owner.leftovers() == []


def check_python(place: Place) -> None:
    """Run a command in a machine of this process, and two in one that stays."""
    done = vm.run(place.root, ("cat",), input="text", text=True, memory="256M")
    assert (done.status, done.stdout) == (0, "text")
    with vm.boot(place.root, text=True, memory="256M") as machine:
        for number in range(2):
            assert machine.run("sh", "-c", f"exit {number}").status == number


KINDS: dict[str, Callable[[Place], None]] = {
    "a command, booted": check_command,
    "a command, from a template": check_warm_command,
    "INIT": check_init,
    "shares": check_shares,
    "an overlay": check_overlay,
    "killed at a random moment": check_kill,
    "a name, several commands": check_named,
    "from Python": check_python,
}


def _run(place: Place, words: tuple[str, ...]) -> tuple[int, str, str]:
    with chrootvm(*_SMALL, *words, folder=place.temporary) as session:
        result = session.finish()
        assert session.leftovers() == []
        return result


def _run_client(*words: str) -> tuple[int, str, str]:
    """Run a chrootvm that uses a machine with a name, and does not own its processes."""
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    return done.returncode, done.stdout, done.stderr


def _expect(place: Place, words: tuple[str, ...], expected: tuple[int, str, str]) -> None:
    found = _run(place, words)
    assert found == expected, found


def check_nothing_left(place: Place, descriptors: set[str]) -> None:
    """Fail for files of a machine that has ended, and for descriptors of this process."""
    for folder in (place.temporary, place.runtime):
        files = [str(path) for path in folder.rglob("*") if not path.is_dir()]
        assert not files, files
    names = [path.name for path in place.temporary.iterdir()]
    assert not names, names
    opened = _descriptors() - descriptors
    assert not opened, opened


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def make_place(seed: int) -> Iterator[Place]:
    """Yield a place with directories of its own, which are deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="soak-") as top:
        paths = {name: Path(top, name) for name in ("tmp", "run", "cache", "state", "data")}
        for path in paths.values():
            path.mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(paths["run"])
        os.environ["XDG_CACHE_HOME"] = str(paths["cache"])
        os.environ["XDG_STATE_HOME"] = str(paths["state"])
        tempfile.tempdir = os.environ["TMPDIR"] = str(paths["tmp"])
        rng = random.Random(seed)
        yield Place(assets.busybox_root(), paths["tmp"], paths["run"], paths["data"], rng)


def soak(place: Place, count: int) -> tuple[dict[str, list[float]], list[str]]:
    """Run `count` checks; return the seconds of each by its kind, and the failures."""
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    failures: list[str] = []
    for number in range(count):
        name = tuple(KINDS)[number % len(KINDS)]
        before, began = _descriptors(), time.monotonic()
        try:
            KINDS[name](place)
            check_nothing_left(place, before)
        except Exception:
            failures.append(f"{number}: {name}: {traceback.format_exc()}")
        seconds[name].append(time.monotonic() - began)
        print(f"\r{number + 1} of {count}, {len(failures)} failed", end="", file=sys.stderr)
    print(file=sys.stderr)
    return seconds, failures


def format_table(seconds: dict[str, list[float]], failures: list[str]) -> str:
    """Return the table in Markdown."""
    rows = ["| machines | number | failed | seconds: least, median, most |", "| --- " * 4 + "|"]
    for name, times in seconds.items():
        if times:
            failed = sum(f": {name}: " in failure for failure in failures)
            spread = f"{min(times):.1f}, {median(times):.1f}, {max(times):.1f}"
            rows.append(f"| {name} | {len(times)} | {failed} | {spread} |")
    total = sum(map(len, seconds.values()))
    return "\n".join([*rows, f"| all | {total} | {len(failures)} | |"])
