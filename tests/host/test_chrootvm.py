"""What a user reads when something has run out."""

import errno
import os
import subprocess
import sys

import pytest

from initrd.errors import HostError
from initrd.host.system.process import shortage


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC])
def test_what_has_run_out_is_one_sentence_with_advice(number: int) -> None:
    with pytest.raises(HostError) as told, shortage():
        raise OSError(number, os.strerror(number))
    what, _, hint = str(told.value).partition("\n")
    assert what == f"cannot go on: {os.strerror(number)}"
    assert hint.startswith("try: ")


def test_other_mistakes_are_shown_where_they_are() -> None:
    with pytest.raises(PermissionError), shortage():
        raise PermissionError(errno.EPERM, "no")


def test_a_ctrl_c_is_no_traceback_and_children_are_noticed() -> None:
    script = (
        "import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "from initrd.host.chrootvm import reset_signals; reset_signals()\n"
        "print(signal.getsignal(signal.SIGCHLD).name, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-2, "SIG_DFL\n", "")


def test_a_ctrl_c_that_was_ignored_stays_ignored() -> None:
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from initrd.host.chrootvm import reset_signals; reset_signals()\n"
        "print(signal.getsignal(signal.SIGINT).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "SIG_IGN\n"
