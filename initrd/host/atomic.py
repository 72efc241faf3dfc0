"""Files that appear whole or not at all: written under a name of their own, then renamed."""

import os


def replace_file(path: str, content: bytes, mode: int = 0o666) -> None:
    """Put `content` in the place of the file `path`, whoever else does so at the same time.

    Raises OSError. Nothing is left of a file that could not be written, also after Ctrl-C.
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:  # it had not come that far
        pass
