"""The daemon of a union root, started with a tmpfs as /proc: its session, limits, files and end."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

# Runs as root, or as root of a user namespace, on a /proc of regular files: an ordinary user may
# lower the limit of open files, but not raise it, and may not exempt a process from the OOM killer.
SCRIPT = """
import os, resource, signal, sys
from initrd.guest.daemon import start_daemon

os.makedirs("/proc/self")
os.makedirs("/proc/sys/fs")
open("/proc/self/oom_score_adj", "w").close()
with open("/proc/sys/fs/nr_open", "w") as file:
    file.write("321\\n")
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
os.umask(0o77)
argv = [b"@" + os.fsencode(sys.argv[1]), *map(os.fsencode, sys.argv[3:])]
pid = start_daemon("/", argv, {b"PATH": b"/nowhere"}, sys.argv[2])
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(open("/proc/self/oom_score_adj").read())
print(resource.getrlimit(resource.RLIMIT_NOFILE) == limits)
"""
DAEMON = """
import os, resource, signal
print(os.getsid(0) == os.getpid(), resource.getrlimit(resource.RLIMIT_NOFILE))
print(oct(os.umask(0)), os.getcwd(), dict(os.environ)["PATH"])
print(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL, os.read(0, 1), flush=True)
os.write(2, b"to standard error\\n")
raise SystemExit(3)
"""


def start(log: Path, program: str, *arguments: str) -> list[str]:
    """Start a daemon; return its status, its OOM score, and whether the parent's limits stayed."""
    command = ["unshare", "-m" if os.geteuid() == 0 else "-Urm", "sh", "-ec"]
    command += ['mount -t tmpfs none /proc && exec "$@"', "sh", sys.executable, "-c"]
    done = subprocess.run(
        [*command, textwrap.dedent(SCRIPT), program, str(log), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_daemon_has_its_own_session_limits_and_environment(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    status, score, kept = start(log, sys.executable, "-I", "-S", "-c", DAEMON)
    assert log.read_text().splitlines() == [
        "before",
        "True (321, 321)",
        "0o0 / /nowhere",
        "True b''",
        "to standard error",
    ]
    assert (status, score) == ("3", "-1000")
    assert kept == "True"


def test_program_that_cannot_be_executed_is_in_the_log_of_the_daemon(tmp_path: Path) -> None:
    status, *_ = start(tmp_path / "log", "/no/such/daemon")
    assert (tmp_path / "log").read_text() == "cannot be executed: No such file or directory\n"
    assert status == "127"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
