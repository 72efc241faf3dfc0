"""A terminal for a test, in tmux."""

import os
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

from tests.boot.chrootvm import DEADLINE


class Terminal:
    """A terminal of 80 by 24 characters with a shell, in a separate tmux server."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux")
        shell = "env PS1='here> ' sh"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", shell)
        self._tmux("set-option", "-g", "window-size", "manual")
        self.expect("here>")  # tmux has set the terminal's modes by then

    def _tmux(self, *words: str) -> str:
        """Run a tmux command; return its standard output."""
        command = ["tmux", "-S", self._socket, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def type(self, text: str) -> None:
        """Send `text` as keys."""
        self._tmux("send-keys", "-l", text)

    def run(self, line: str) -> None:
        """Send `line` as keys, and Enter."""
        self.type(line)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Send keys by their names in tmux: C-c, Escape …"""
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window."""
        self._tmux("resize-window", "-x", f"{columns}", "-y", f"{rows}")

    def screen(self) -> str:
        """Return the text on the screen."""
        return self._tmux("capture-pane", "-p")

    def expect(self, text: str) -> None:
        """Wait until a line of the screen begins with `text`, or with `^Z` and `text`.

        bash reports a stopped job on a line of its own, or behind the echo of Ctrl-Z.
        """
        self._await(lambda: self._shows(text))

    def expect_gone(self, text: str) -> None:
        """Wait until no line of the screen begins with `text`."""
        self._await(lambda: not self._shows(text))

    def _shows(self, text: str) -> bool:
        return any(line.removeprefix("^Z").startswith(text) for line in self.screen().split("\n"))

    def _await(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, self.screen()
            time.sleep(0.1)

    def modes(self) -> list[object]:
        """Return the terminal's modes: tcgetattr(3)."""
        path = self._tmux("display-message", "-p", "#{pane_tty}").strip()
        terminal = os.open(path, os.O_RDONLY | os.O_NOCTTY)
        try:
            return termios.tcgetattr(terminal)
        finally:
            os.close(terminal)

    def expect_modes(self, modes: list[object]) -> None:
        """Wait until the terminal's modes are `modes`."""
        self._await(lambda: self.modes() == modes)

    def close(self) -> None:
        """End the tmux server and its shell."""
        self._tmux("kill-server")
