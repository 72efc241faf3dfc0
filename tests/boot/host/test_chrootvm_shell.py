"""chrootvm ROOTFS without a terminal: a login shell that reads its commands from a pipe."""

import os
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import chrootvm

pytestmark = pytest.mark.boot


def run_shell(start: str, folder: Path, script: str, *words: str) -> tuple[int, str, str]:
    """Run a login shell with a script as its standard input; return its status and output."""
    reader, writer = os.pipe()
    os.write(writer, script.encode())
    os.close(writer)
    warm = ("--warm",) if start == "warm" else ()
    try:
        with chrootvm(*warm, *words, folder=folder, stdin=reader) as session:
            return session.finish()
    finally:
        os.close(reader)


def test_a_login_shell_reads_commands_up_to_the_end_of_a_pipe(start: str, tmp_path: Path) -> None:
    script = "echo $0 $SHELL $HOME $PWD; cat /proc/sys/kernel/ostype; exit 3"
    done = run_shell(start, tmp_path, script, assets.debian_root())
    assert done == (3, "-bash /bin/bash /root /\nLinux\n", "")
    done = run_shell(start, tmp_path, "echo one; false", assets.debian_root())
    assert done == (1, "one\n", "")


def test_a_root_without_users_has_bin_sh_as_its_login_shell(start: str, tmp_path: Path) -> None:
    script = "echo $0 $SHELL $A; pwd; echo error >&2"
    options = ("--env", "A=b", "--chdir", "/tmp")
    done = run_shell(start, tmp_path, script, *options, assets.busybox_root())
    assert done == (0, "-sh /bin/sh b\n/tmp\n", "error\n")


def test_a_login_shell_is_that_of_the_selected_user(start: str, tmp_path: Path) -> None:
    done = run_shell(start, tmp_path, "id", "--user", "nobody", assets.debian_root())
    assert done == (1, "This account is currently not available.\n", "")
