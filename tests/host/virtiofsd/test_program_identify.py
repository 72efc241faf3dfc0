"""Identify a virtiofsd by its answer to --help, with and without the cache."""

import os
import sys
from pathlib import Path

import pytest

from initrd.host.system.cached import Cache
from initrd.host.system.hosterror import HostError
from initrd.host.virtiofsd.program import Virtiofsd, identify, parse_help, query
from tests.host.conftest import write_program

ELF = os.path.realpath(
    sys.executable
)  # a program whose file has not just changed, so the cache takes it
C_HELP = "usage: virtiofsd [options]\n  -o source=PATH  shared directory tree\n"
RUST_HELP = "Usage: virtiofsd --shared-dir <SHARED_DIR>\n  --readonly\n"
OLD_RUST_HELP = "USAGE: virtiofsd --shared-dir <shared-dir>\n"


@pytest.mark.parametrize(
    ("answer", "virtiofsd"),
    [
        pytest.param(C_HELP, Virtiofsd("x", "c"), id="c"),
        pytest.param(
            f"{C_HELP}  -o killpriv_v2/no_killpriv_v2\n",
            Virtiofsd("x", "c", killpriv=True),
            id="c with killpriv",
        ),
        pytest.param(RUST_HELP, Virtiofsd("x", "rust", readonly=True), id="rust"),
        pytest.param(OLD_RUST_HELP, Virtiofsd("x", "rust"), id="rust before --readonly"),
        pytest.param(
            f"{RUST_HELP}  --inode-file-handles <INODE_FILE_HANDLES>\n",
            Virtiofsd("x", "rust", readonly=True, handles=True),
            id="rust with file handles",
        ),
        pytest.param(
            f"{RUST_HELP}  --no-announce-submounts\n",
            Virtiofsd("x", "rust", readonly=True, announces=True),
            id="rust that announces submounts by default",
        ),
        pytest.param(
            f"{RUST_HELP}  --translate-uid <TRANSLATE_UID>\n",
            Virtiofsd("x", "rust", readonly=True, translates=True),
            id="rust with a translation of user IDs",
        ),
        pytest.param(
            f"{RUST_HELP}  --killpriv-v2\n",
            Virtiofsd("x", "rust", readonly=True, killpriv=True),
            id="rust with killpriv",
        ),
    ],
)
def test_family_and_features_are_read_from_the_help(answer: str, virtiofsd: Virtiofsd) -> None:
    assert parse_help("x", answer.encode()) == virtiofsd


def test_query_runs_the_program_with_help(tmp_path: Path) -> None:
    path = write_program(
        tmp_path / "virtiofsd", 'test "$1" = --help && echo "  --shared-dir <DIR>  --readonly"'
    )
    assert query(path) == Virtiofsd(path, "rust", readonly=True)


def test_help_may_be_on_standard_error_with_a_failed_status(tmp_path: Path) -> None:
    path = write_program(tmp_path / "virtiofsd", 'echo "    -o source=PATH" >&2; exit 1')
    assert query(path).family == "c"


@pytest.mark.parametrize("script", ["echo hello", "exit 1", "kill $$"])
def test_other_programs_are_refused(tmp_path: Path, script: str) -> None:
    with pytest.raises(HostError, match="is no virtiofsd"):
        query(write_program(tmp_path / "virtiofsd", script))


def test_error_about_a_program_that_cannot_run_has_its_path(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot run .*/gone: No such file"):
        query(str(tmp_path / "gone"))


class Answers:
    """The answers of a program to --help, one for each call; a further call fails."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def __call__(self, program: str) -> bytes:
        return self.answers.pop(0).encode()


def test_answer_of_a_program_is_cached(cache: Cache) -> None:
    answers, expected = Answers(RUST_HELP), Virtiofsd(ELF, "rust", readonly=True)
    for _ in range(3):
        assert identify(ELF, cache, answers) == expected


def test_answer_of_another_program_is_not_cached(cache: Cache) -> None:
    answers = Answers("error while loading shared libraries", C_HELP)
    with pytest.raises(HostError, match="loading shared libraries"):
        identify(ELF, cache, answers)
    assert identify(ELF, cache, answers).family == "c"


def test_script_is_run_each_time(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "answer").write_text(RUST_HELP)
    path = write_program(tmp_path / "virtiofsd", f"cat {tmp_path}/answer")
    os.utime(path, (0, 0))
    assert identify(path, cache).family == "rust"
    (tmp_path / "answer").write_text(C_HELP)
    assert identify(path, cache).family == "c"


def test_program_is_run_each_time_without_a_usable_cache() -> None:
    answers = Answers(RUST_HELP, C_HELP)
    with Cache("/proc/nowhere") as cache:
        assert identify(ELF, cache, answers).family == "rust"
        assert identify(ELF, cache, answers).family == "c"
