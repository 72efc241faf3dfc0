"""What kind of virtiofsd a program is: told by what it says of itself, never by its path.

The answer is kept with the state of the program's file, as images are: asking takes a tenth of all
that chrootvm does before it starts QEMU.
"""

import os

from initrd.host.cache import Image, open_image
from initrd.host.failure import HostError
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 4  # answers


class Dialect(Record):
    """A virtiofsd program, and how it wants to be spoken to."""

    program: str
    family: str  # `c` or `rust`
    readonly: bool = False  # it has a read-only mode of its own
    killpriv: bool = False  # it can drop the privileges of files that are written to
    handles: bool = False  # it can note what a file is, where others have it open all the time


def help_text(program: str) -> bytes:
    """Return what a program answers to `--help`. Raises HostError when it cannot be run."""
    from initrd.host.answers import answer_of  # noqa: PLC0415 - long, and a known one needs none

    return answer_of(program, "--help")


def dialect_of(program: str, cache: str, help_of: "Callable[[str], bytes]" = help_text) -> Dialect:
    """Return what a virtiofsd is, as it says or has said before. Raises HostError when it is none.

    What is not understood is not kept: it may be for a library that is missing. A script may start
    another program tomorrow without changing: it is asked each time.
    """

    def answer() -> Image:
        text = help_of(program)
        understand(program, text)
        return Image(text, (program,))

    if _is_script(program):
        return understand(program, help_of(program))
    folder = os.path.join(cache, "virtiofsd")
    with open(open_image(folder, program, answer, kept=KEPT), "rb") as file:
        file.seek(0)  # one that the cache does not keep was just written
        return understand(program, file.read())


def ask(program: str) -> Dialect:
    """Ask a virtiofsd what it is. Raises HostError when it is none that we know."""
    return understand(program, help_text(program))


def understand(program: str, text: bytes) -> Dialect:
    """Return what a program is that answers `--help` like this. Raises HostError."""
    answer = text.decode(errors="replace")
    if "--shared-dir" in answer:
        return Dialect(
            program,
            "rust",
            readonly="--readonly" in answer,
            killpriv="--killpriv-v2" in answer,
            handles="--inode-file-handles" in answer,
        )
    if "-o source=" in answer:
        return Dialect(program, "c", killpriv="killpriv_v2" in answer)
    raise HostError(
        f"{program} is no virtiofsd",
        f"it answers --help with {answer.strip()[:60]!r}",
        "the program of Debian's packages virtiofsd or qemu-system-common: --virtiofsd BIN",
    )


def _is_script(program: str) -> bool:
    try:
        with open(program, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:  # it may be executed and not read: then it is no script
        return False
