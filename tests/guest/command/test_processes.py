"""Which processes are spared at the end: lists that anybody may have written."""

import os
import subprocess
import sys
import time
from pathlib import Path

from initrd.guest.command.processes import _is_user_process, exempt_pids


def test_no_directory_spares_nobody(tmp_path: Path) -> None:
    assert exempt_pids(f"{tmp_path}/missing") == frozenset()
    (tmp_path / "file").touch()
    assert exempt_pids(f"{tmp_path}/file") == frozenset()


def test_every_number_in_every_file_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12\n13 14\n")
    (tmp_path / "b").write_text("15")
    assert exempt_pids(str(tmp_path)) == {12, 13, 14, 15}


def test_what_is_no_list_of_numbers_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "words").write_bytes(b"-5 +6 seven \xff\xb2 8.0 " + b"9" * 5000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "good").write_text("21")
    assert exempt_pids(str(tmp_path)) == {21}


def test_a_process_lives_as_long_as_one_of_its_threads() -> None:
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
        while state_of(process.pid) != "Z":  # it looks like a zombie
            time.sleep(0.01)
        assert _is_user_process(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not _is_user_process(process.pid)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
