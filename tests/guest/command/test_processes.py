"""Exempt processes from /run/sendsigs.omit.d, whose files any program may write; live processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

from initrd.guest.command.processes import _has_program, read_exempt_pids


def test_missing_omit_directory_exempts_no_process(tmp_path: Path) -> None:
    assert read_exempt_pids(f"{tmp_path}/missing") == frozenset()
    (tmp_path / "file").touch()
    assert read_exempt_pids(f"{tmp_path}/file") == frozenset()


def test_all_numbers_in_all_omit_files_are_exempt(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12\n13 14\n")
    (tmp_path / "b").write_text("15")
    assert read_exempt_pids(str(tmp_path)) == {12, 13, 14, 15}


def test_unreadable_omit_files_and_words_that_are_no_number_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "words").write_bytes(b"-5 +6 seven \xff\xb2 8.0 " + b"9" * 5000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "good").write_text("21")
    assert read_exempt_pids(str(tmp_path)) == {21}


def test_process_has_a_program_until_its_last_thread_ends() -> None:
    end_first_thread = (
        "import ctypes, threading, time, platform\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print(flush=True)\n"
        "ctypes.CDLL(None).syscall({'x86_64': 60}.get(platform.machine(), 93), 0)\n"
    )
    command = [sys.executable, "-c", end_first_thread]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        while read_process_state(process.pid) != "Z":  # until the first thread has ended
            time.sleep(0.01)
        assert _has_program(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not _has_program(process.pid)


def read_process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]


def test_children_beyond_a_limit_are_announced_again() -> None:
    program = (
        "import os, signal, sys\n"
        "from initrd.guest.command.processes import MAX_REAPED, Processes\n"
        "processes = Processes()\n"
        "signals = processes.receive_signals()\n"
        "for _ in range(MAX_REAPED + 1):\n"
        "    pid = os.fork() or os._exit(3)\n"
        "    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
        "counts = []\n"
        "while sum(counts) <= MAX_REAPED:\n"
        "    os.set_blocking(signals, True)\n"
        "    assert int.from_bytes(os.read(signals, 128)[:4], sys.byteorder) == signal.SIGCHLD\n"
        "    ended = processes.reap()\n"
        "    assert {status for _, status in ended} <= {0x300}\n"
        "    counts.append(len(ended))\n"
        "print(max(counts) == MAX_REAPED, sum(counts) == MAX_REAPED + 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "True True\n"
