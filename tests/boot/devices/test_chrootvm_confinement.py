"""What confines QEMU while a machine runs."""

from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import chrootvm, run

pytestmark = pytest.mark.boot


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize("options", [(), ("--net",), ("--overlay",)], ids=" ".join)
def test_qemu_runs_with_a_system_call_filter(options: tuple[str, ...], tmp_path: Path) -> None:
    words = (*options, assets.busybox_root(), "--", "sh", "-c", "echo up; sleep 1000")
    with chrootvm(*words, folder=tmp_path) as session:
        session.expect("up")
        status = Path(f"/proc/{session.find_pid('qemu-system')}/status").read_text("ascii")
    assert "Seccomp:\t2\n" in status
    assert "NoNewPrivs:\t1\n" in status


def test_an_option_of_the_user_takes_the_place_of_the_filter(tmp_path: Path) -> None:
    words = ("--qemu-arg=-sandbox", "--qemu-arg=off", assets.busybox_root(), "--", "true")
    assert run(*words, folder=tmp_path) == (0, "", "")
