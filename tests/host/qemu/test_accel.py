"""Choosing the accelerator: KVM when it works, and never on the word of /dev/kvm alone."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from initrd.errors import HostError
from initrd.host.qemu.accel import choose_accelerator, probe_kvm, remember_answer, why_no_kvm
from initrd.host.qemu.arch import ARCHES, Arch, find_arch, is_native
from initrd.host.system.process import run_in_child

NATIVE = find_arch()
FOREIGN = next(arch for arch in ARCHES if not is_native(arch))


def answers(text: str) -> Callable[[], str]:
    return lambda: text


@pytest.mark.parametrize(
    ("wanted", "arch", "why_not", "chosen"),
    [
        pytest.param("auto", NATIVE, "", "kvm", id="works"),
        pytest.param("auto", NATIVE, "it hangs", "tcg", id="is there but does not work"),
        pytest.param("auto", FOREIGN, "", "tcg", id="another architecture"),
        pytest.param("kvm", NATIVE, "", "kvm", id="wanted and works"),
        pytest.param("tcg", NATIVE, "", "tcg", id="not wanted"),
    ],
)
def test_the_choice(wanted: str, arch: Arch, why_not: str, chosen: str) -> None:
    assert choose_accelerator(wanted, arch, answers(why_not)) == chosen


@pytest.mark.parametrize("arch", [NATIVE, FOREIGN])
def test_kvm_that_is_wanted_but_does_not_work_says_why(arch: Arch) -> None:
    with pytest.raises(HostError, match=r"cannot use KVM: .*\ntry: --accel tcg"):
        choose_accelerator("kvm", arch, answers("a guest hangs"))


def test_kvm_is_not_asked_about_when_it_is_not_wanted() -> None:
    assert choose_accelerator("tcg", NATIVE, lambda: pytest.fail("asked")) == "tcg"


def test_no_device_no_kvm(tmp_path: Path) -> None:
    assert why_no_kvm(str(tmp_path), str(tmp_path / "kvm")) == f"{tmp_path}/kvm does not exist"


def test_a_device_that_opens_but_is_not_kvm_does_not_work(tmp_path: Path) -> None:
    assert "refuses" in why_no_kvm(str(tmp_path), "/dev/null")


def test_a_device_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    assert probe_kvm(str(tmp_path)) == f"{tmp_path} cannot be opened: Is a directory"


@pytest.mark.parametrize(
    ("boot", "asked"),
    [
        pytest.param("this", 1, id="the same boot"),
        pytest.param("", 2, id="a host that does not say which boot it is"),
    ],
)
def test_an_answer_is_kept_for_this_boot(tmp_path: Path, boot: str, asked: int) -> None:
    questions: list[str] = []

    def ask() -> str:
        questions.append("?")
        return "it works, mostly"

    for _ in range(2):
        assert remember_answer(str(tmp_path / "new/kvm"), boot, ask) == "it works, mostly"
    assert len(questions) == asked


def test_an_answer_of_another_boot_is_not_taken(tmp_path: Path) -> None:
    remember_answer(str(tmp_path / "kvm"), "yesterday", answers("works"))
    assert remember_answer(str(tmp_path / "kvm"), "today", answers("broken")) == "broken"
    assert remember_answer(str(tmp_path / "kvm"), "today", answers("works")) == "broken"


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert remember_answer(str(tmp_path / "file/kvm"), "today", answers("works")) == "works"


def test_an_experiment_that_hangs_is_ended() -> None:
    def hang() -> str:
        time.sleep(60)
        return "woke up"

    assert run_in_child(hang, deadline=0.05) == ""


def test_an_experiment_that_is_killed_has_not_worked() -> None:
    def crash() -> str:
        raise SystemExit

    assert run_in_child(crash) == ""


@pytest.mark.parametrize(
    ("name", "arch"), [("x86_64", "x86_64"), ("amd64", "x86_64"), ("arm64", "aarch64")]
)
def test_an_architecture_has_the_kernels_name_and_the_distributions(name: str, arch: str) -> None:
    assert find_arch(name).name == arch


def test_an_unknown_architecture_lists_those_that_are_known() -> None:
    with pytest.raises(HostError, match=r"'vax'.*known are x86_64, aarch64"):
        find_arch("vax")
