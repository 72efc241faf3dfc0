"""`make build ARCH=NAME`: its target, and what it needs on the host."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import emulation, foreign_init
from testbed.emulation import EmulationError, find_emulator
from tests.test_elf import head

TOP = Path(__file__).parents[2]


def planned(*arguments: str, **environ: str) -> str:
    """Return the commands that make would run for dist/init."""
    command = ["make", "-n", "-C", str(TOP), "-o", "build/venv/.installed", *arguments]
    environ = {**{name: os.environ[name] for name in ("PATH", "HOME")}, **environ}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    return done.stdout


def test_arch_selects_the_init_that_is_built(tmp_path: Path) -> None:
    foreign = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
    dist = f"DIST={tmp_path}"
    command = f"-m testbed.foreign_init {foreign} {tmp_path}/init-{foreign}"
    assert command in planned("build", dist, f"ARCH={foreign}")
    for plan in (
        planned("build", dist),
        planned("build", dist, f"ARCH={os.uname().machine}"),
        planned("build", dist, ARCH=foreign),  # such as that of a kernel's build
    ):
        assert f"{tmp_path}/init" in plan
        assert "foreign_init" not in plan


def test_boot_tests_of_another_architecture_are_a_selection(tmp_path: Path) -> None:
    plan = planned("boot", f"DIST={tmp_path}", "ARCH=aarch64", "-o", "packages-check")
    assert "-m 'boot and every_architecture'" in plan
    assert "every_architecture" not in planned("boot", f"DIST={tmp_path}", "-o", "packages-check")


def matches(entry: str, program: bytes) -> bool:
    """Return whether the kernel would start a program by an entry of binfmt_misc."""
    _, _, _, _, magic, mask, _, _ = (part.encode() for part in entry.split(":"))
    values, bits = (part.decode("unicode_escape").encode("latin-1") for part in (magic, mask))
    assert len(values) == len(bits)
    pairs = zip(program.ljust(len(values), b"\0"), values, bits, strict=False)
    return all((byte ^ value) & bit == 0 for byte, value, bit in pairs)


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An emulator for arm64, the only program on the path."""
    path = tmp_path / "qemu-aarch64-static"
    path.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return path


def test_only_programs_of_the_architecture_match_the_registered_entry(emulator: Path) -> None:
    entry = emulation.binfmt_entry("aarch64")
    assert entry.endswith(f":{emulator}:F")
    static, dynamic = head(183), head(183)[:16] + b"\x03" + head(183)[17:]
    assert matches(entry, static)
    assert matches(entry, dynamic)
    assert not matches(entry, head(62))
    assert not matches(entry, head(40, bits=32))
    assert not matches(entry, b"#!/bin/sh\n")


def test_missing_emulator_is_named_with_its_package(emulator: Path) -> None:
    assert find_emulator("aarch64") == str(emulator)
    emulator.unlink()
    with pytest.raises(EmulationError, match=r"no qemu-aarch64-static .*package qemu-user-static"):
        find_emulator("aarch64")


@pytest.mark.usefixtures("emulator")
def test_host_without_any_way_to_register_is_explained(tmp_path: Path) -> None:
    script = tmp_path / "unshare"
    script.write_text(f"#!{sys.executable}\nraise SystemExit({emulation.NO_EMULATION})\n")
    script.chmod(0o755)
    with pytest.raises(EmulationError, match=r"^cannot run programs for aarch64: .*Linux 6\.7"):
        emulation.run_in_root("/", "aarch64", ("true",), {})


def test_architecture_that_init_cannot_be_built_for_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert foreign_init.main("vax", f"{tmp_path}/init-vax") == 1
    message = "cannot build {}/init-vax: /init is built for aarch64 and x86_64, and not for vax\n"
    assert capsys.readouterr().err == message.format(tmp_path)
