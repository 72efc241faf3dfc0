"""Choice of the accelerator: KVM only where a guest runs with it; architecture names."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from initrd.host.qemu.accel import cached_result, choose_accelerator, find_kvm_problem, probe_kvm
from initrd.host.qemu.arch import ARCHES, Arch, find_arch, is_native
from initrd.host.system.cached import Cache
from initrd.host.system.hosterror import HostError
from initrd.host.system.process import run_in_child

NATIVE = find_arch()
FOREIGN = next(arch for arch in ARCHES if not is_native(arch))


def returns(text: str) -> Callable[[], str]:
    return lambda: text


@pytest.mark.parametrize(
    ("wanted", "arch", "problem", "chosen"),
    [
        pytest.param("auto", NATIVE, "", "kvm", id="auto and KVM works"),
        pytest.param("auto", NATIVE, "it hangs", "tcg", id="auto and KVM does not work"),
        pytest.param("auto", FOREIGN, "", "tcg", id="auto and another architecture"),
        pytest.param("kvm", NATIVE, "", "kvm", id="kvm and KVM works"),
        pytest.param("tcg", NATIVE, "", "tcg", id="tcg and KVM works"),
    ],
)
def test_kvm_is_chosen_only_where_it_works(
    wanted: str, arch: Arch, problem: str, chosen: str
) -> None:
    assert choose_accelerator(wanted, arch, returns(problem)) == chosen


@pytest.mark.parametrize("arch", [NATIVE, FOREIGN], ids=["native", "foreign"])
def test_accel_kvm_fails_with_the_reason_where_kvm_does_not_work(arch: Arch) -> None:
    with pytest.raises(HostError, match=r"cannot use KVM: .*\ntry: --accel tcg"):
        choose_accelerator("kvm", arch, returns("a guest hangs"))


def test_kvm_is_not_tested_with_accel_tcg() -> None:
    assert choose_accelerator("tcg", NATIVE, lambda: pytest.fail("tested")) == "tcg"


def test_missing_kvm_device_is_reported(tmp_path: Path, cache: Cache) -> None:
    assert find_kvm_problem(cache, str(tmp_path / "kvm")) == f"{tmp_path}/kvm does not exist"


def test_device_without_the_kvm_ioctls_is_reported(cache: Cache) -> None:
    assert "refuses" in find_kvm_problem(cache, "/dev/null")


def test_kvm_device_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    assert probe_kvm(str(tmp_path)) == f"{tmp_path} cannot be opened: Is a directory"


@pytest.mark.parametrize(
    ("boot_id", "probes"),
    [
        pytest.param("this", 1, id="known boot identifier"),
        pytest.param("", 2, id="no boot identifier"),
    ],
)
def test_kvm_result_is_cached_for_the_current_boot(cache: Cache, boot_id: str, probes: int) -> None:
    calls: list[str] = []

    def probe() -> str:
        calls.append("probe")
        return "it works, mostly"

    for _ in range(2):
        assert cached_result(cache, boot_id, probe) == "it works, mostly"
    assert len(calls) == probes


def test_kvm_result_of_an_earlier_boot_is_not_used(cache: Cache) -> None:
    cached_result(cache, "yesterday", returns("works"))
    assert cached_result(cache, "today", returns("broken")) == "broken"
    assert cached_result(cache, "today", returns("works")) == "broken"


def test_kvm_result_is_returned_when_the_cache_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Cache(str(tmp_path / "file")) as cache:
        assert cached_result(cache, "today", returns("works")) == "works"


def test_child_that_hangs_is_killed_after_its_deadline() -> None:
    def hang() -> str:
        time.sleep(60)
        return "woke up"

    assert run_in_child(hang, timeout=0.05) == ""


def test_child_that_crashes_returns_an_empty_result() -> None:
    def crash() -> str:
        raise SystemExit

    assert run_in_child(crash) == ""


@pytest.mark.parametrize(
    ("name", "arch"), [("x86_64", "x86_64"), ("amd64", "x86_64"), ("arm64", "aarch64")]
)
def test_architecture_is_found_by_the_name_of_the_kernel_or_of_debian(name: str, arch: str) -> None:
    assert find_arch(name).name == arch


def test_error_for_an_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(HostError, match=r"'vax'.*known are x86_64, aarch64"):
        find_arch("vax")


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "readable", "not UTF-8"])
def test_file_that_is_no_kvm_result_is_not_used(cache: Cache, kind: str) -> None:
    path = Path(cache.path, "kvm")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        target = Path(cache.path, "target") if kind == "link" else path
        target.write_bytes(b"today \xff" if kind == "not UTF-8" else b"today planted")
        target.chmod(0o644 if kind == "readable" else 0o600)
        if kind == "link":
            path.symlink_to("target")
    result = cached_result(cache, "today", returns("works"))
    assert result == ("\ufffd" if kind == "not UTF-8" else "works")
    if kind == "link":
        assert Path(cache.path, "target").read_text() == "today planted"
