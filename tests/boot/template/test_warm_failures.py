"""Templates that cannot be made or used: the command runs all the same, in a machine that boots."""

import json
import os
import shutil
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import DEADLINE, Session, chrootvm, run, used_templates

pytestmark = pytest.mark.boot

COMMAND = ("--", "sh", "-c", "echo it runs")
ANOTHER_TEMPLATE = ("--memory", "256M")


@pytest.fixture
def cache(directory: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in a directory that only this user can reach."""
    monkeypatch.setenv("XDG_CACHE_HOME", directory)
    return Path(directory)


@pytest.fixture(scope="module")
def filled_cache(shared_directory: str) -> Path:
    """A cache with two templates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", shared_directory)
        for options in ((), ANOTHER_TEMPLATE):
            run_warm(Path(shared_directory), *options)
    assert len(templates_of(Path(shared_directory))) == 2
    return Path(shared_directory)


@pytest.fixture
def template(filled_cache: Path, cache: Path) -> Path:
    """The path of the template in a cache of its own."""
    before = time.time_ns()
    shutil.copytree(filled_cache, cache, dirs_exist_ok=True)
    run_warm(cache)
    (path,) = used_templates(str(cache), before)
    return path


def templates_of(cache: Path) -> list[Path]:
    return sorted(cache.glob("initrd/templates/*.template"))


def temporaries_of(cache: Path) -> list[Path]:
    return list(cache.glob("initrd/templates/.*.tmp"))


def run_warm(folder: Path, *options: str) -> str:
    """Run the command; return what `--verbose` prints of chrootvm itself."""
    words = ("--warm", "--verbose", *options, assets.busybox_root(), *COMMAND)
    status, output, errors = run(*words, folder=folder)
    assert (status, output) == (0, "it runs\n"), errors
    return "".join(line for line in errors.splitlines() if line.startswith("chrootvm: "))


def wait_for_maker(session: Session) -> None:
    """Wait until QEMU boots the template."""
    deadline = time.monotonic() + DEADLINE
    while session.process.poll() is None and time.monotonic() < deadline:
        try:
            session.find_pid("qemu-system")
        except StopIteration:
            time.sleep(0.01)
        else:
            return
    raise AssertionError("no template is made")


def wait_for_temporary(session: Session, cache: Path) -> None:
    """Wait until a template is written."""
    deadline = time.monotonic() + DEADLINE
    while not temporaries_of(cache):
        assert session.process.poll() is None
        assert time.monotonic() < deadline


@pytest.mark.parametrize("moment", ["booting", "writing"])
def test_a_killed_maker_leaves_nothing_that_the_next_start_does_not_remove(
    moment: str, cache: Path, tmp_path: Path
) -> None:
    words = ("--warm", assets.busybox_root(), *COMMAND)
    with chrootvm(*words, folder=tmp_path) as session:
        wait_for_maker(session)
        if moment == "writing":
            wait_for_temporary(session, cache)
        session.process.kill()
        assert session.finish()[0] == -signal.SIGKILL
        assert session.leftovers() == []
    assert templates_of(cache) == []
    long_ago = time.time() - 3600  # a younger file may be one that another process writes
    for path in temporaries_of(cache):
        os.utime(path, (long_ago, long_ago))
    assert run_warm(tmp_path) == ""
    assert len(templates_of(cache)) == 1
    assert temporaries_of(cache) == []


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_making_of_a_template_at_once(number: int, tmp_path: Path) -> None:
    with chrootvm("--warm", assets.busybox_root(), *COMMAND, folder=tmp_path) as session:
        wait_for_maker(session)
        began = time.monotonic()
        session.process.send_signal(number)
        assert session.finish() == (-number, "", "")
        assert time.monotonic() - began < 1
        assert session.leftovers() == []


def test_timeout_option_ends_the_making_of_a_template(cache: Path, tmp_path: Path) -> None:
    words = ("--warm", assets.busybox_root(), *COMMAND)
    assert run("--dry-run", *words, folder=tmp_path)[0] == 0  # the image is in the cache then
    began = time.monotonic()
    status, output, errors = run("--timeout", "1.5", *words, folder=tmp_path)
    assert (status, output) == (124, "")
    expected = "the command had not started after 1.5 s: it was making a template"
    assert errors == f"chrootvm: {expected}\n"
    assert time.monotonic() - began < 4
    assert templates_of(cache) == []
    assert temporaries_of(cache) == []
    assert list(cache.glob("initrd/templates/*.failure")) == []


def replace_content(path: Path, data: bytes) -> None:
    """Change a file's content; its time of change stays, as if the disk had changed it."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_byte(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    replace_content(path, bytes(data))


def swap_templates(path: Path) -> None:
    (other,) = (one for one in templates_of(path.parents[2]) if one != path)
    os.replace(other, path)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: os.truncate(path, path.stat().st_size // 2), id="half of it"),
        pytest.param(lambda path: replace_content(path, b""), id="empty"),
        pytest.param(lambda path: replace_content(path, os.urandom(9999)), id="something else"),
        pytest.param(lambda path: change_byte(path, 5), id="a bit of the header"),
        pytest.param(lambda path: change_byte(path, 50_000), id="a bit of the devices' state"),
        pytest.param(os.utime, id="changed later"),
        pytest.param(lambda path: path.chmod(0o644), id="readable by others"),
        pytest.param(swap_templates, id="that of another machine"),
    ],
)
def test_a_damaged_template_is_replaced(
    damage: Callable[[Path], object], template: Path, tmp_path: Path
) -> None:
    damage(template)
    damaged, began = template.stat().st_ino, time.time_ns()
    assert run_warm(tmp_path) == ""
    assert used_templates(os.environ["XDG_CACHE_HOME"], began) == [template]
    assert template.stat().st_ino != damaged


def test_a_template_that_qemu_refuses_is_removed_and_not_made_again_soon(
    template: Path, tmp_path: Path
) -> None:
    line, _, rest = template.read_bytes().partition(b"\n")
    header = json.loads(line)
    table, end = rest[: header["extents"] * 16], header["extents"] * 16 + header["state"]
    state = b"nothing that QEMU knows".ljust(header["state"])
    changed = json.dumps({**header, "checksum": zlib.crc32(table + state)}).encode()
    # The time in the header has to be that of the file, and other numbers may have other lengths.
    replace_content(template, changed + b"\n" + table + state + rest[end:])
    assert "booting without a template: " in run_warm(tmp_path)
    assert not template.exists()
    assert "booting without a template: it failed a short time ago: " in run_warm(tmp_path)
    assert not template.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda path: path.parent.chmod(0o755), "its mode is 0755", id="mode 0755"),
        pytest.param(lambda path: path.parent.chmod(0o500), "its mode is 0500", id="read-only"),
        pytest.param(
            lambda path: path.parent.parent.chmod(0o777),
            "users other than",
            id="a parent that all can write to",
        ),
    ],
)
def test_templates_that_others_can_reach_are_not_used(
    change: Callable[[Path], object], reason: str, template: Path, tmp_path: Path
) -> None:
    change(template)
    began = time.time_ns()
    assert reason in run_warm(tmp_path)
    assert used_templates(os.environ["XDG_CACHE_HOME"], began) == []


def test_without_a_place_for_templates_the_machine_boots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/sys/kernel")  # not even root can make a directory there
    assert "booting without a template: " in run_warm(tmp_path)
