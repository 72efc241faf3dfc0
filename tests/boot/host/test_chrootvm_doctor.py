"""chrootvm --doctor with the installed programs: its verdict compared with a boot."""

from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import run

pytestmark = pytest.mark.boot


def test_a_root_that_doctor_accepts_boots(tmp_path: Path) -> None:
    words = ("--net", "--overlay", assets.busybox_root(), "--", "touch", "/new")
    status, output, errors = run("--doctor", *words, folder=tmp_path)
    assert (status, errors) == (0, "")
    assert output.endswith("\nit will boot\n")
    assert "missing" not in output
    assert "virtio_console, virtio_net" in output
    assert run(*words, folder=tmp_path) == (0, "", "")


def test_a_root_that_doctor_rejects_does_not_boot(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assets.make_busybox_root(str(root))
    words = (str(root), "--", "true")
    status, output, errors = run("--doctor", *words, folder=tmp_path)
    assert (status, errors) == (1, "")
    assert f"\nmissing  kernel       no kernel in {root}: neither " in output
    assert "try: install a kernel package in it, or give --kernel FILE" in output
    assert output.endswith("\nit will not boot: see kernel\n")
    assert run(*words, folder=tmp_path)[0] == 125


def test_doctor_with_an_invalid_option_value_exits_with_125(tmp_path: Path) -> None:
    status, output, errors = run("--doctor", "--memory", "much", "/", folder=tmp_path)
    assert (status, output) == (125, "")
    assert "cannot use 'much' as a size" in errors
