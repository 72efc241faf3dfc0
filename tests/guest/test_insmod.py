"""Kernel modules: their names, order and parameters."""

import pytest

from initrd.guest.insmod import load_modules, module_name, params_of
from initrd.guest.log import Log
from tests.fake_kernel import FakeKernel


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("virtio_pci.ko", "virtio_pci"),
        ("003-virtio-pci.ko.xz", "virtio_pci"),
        ("9p.ko", "9p"),
        ("000-9pnet-virtio.ko.zst", "9pnet_virtio"),
        ("ccm-x.ko.gz", "ccm_x"),
    ],
)
def test_the_name_of_a_module_is_read_from_its_file(file: str, name: str) -> None:
    assert module_name(file) == name


def test_parameters_reach_their_module_only() -> None:
    params = (("a", "x=1"), ("b", "y"), ("a", "z=two words"))
    assert params_of("a", params) == 'x=1 z="two words"'
    assert params_of("c", params) == ""


def test_modules_load_in_byte_wise_order() -> None:
    names = ["10-b.ko", "2-a.ko", "Z.ko", "a.ko", "é.ko", "_.ko"]
    kernel = FakeKernel(files={f"/usr/lib/modules/{name}": "" for name in names})
    load_modules(kernel, (), Log(kernel))  # type: ignore[arg-type]
    loaded = [call[1].rpartition("/")[2] for call in kernel.calls]
    assert loaded == ["10-b.ko", "2-a.ko", "Z.ko", "_.ko", "a.ko", "é.ko"]


def test_what_is_no_module_is_not_loaded() -> None:
    files = ["a.ko.txt", "modules.dep", "a.ko.xz", "ko"]
    kernel = FakeKernel(files={f"/usr/lib/modules/{name}": "" for name in files})
    load_modules(kernel, (), Log(kernel))  # type: ignore[arg-type]
    assert kernel.calls == [("load_module", "/usr/lib/modules/a.ko.xz", "", 4)]


@pytest.mark.parametrize(
    ("number", "words"),
    [(8, "damaged"), (2, "symbol"), (95, "decompress"), (13, "Permission denied")],
)
def test_why_a_module_failed_is_said(number: int, words: str) -> None:
    kernel = FakeKernel(files={"/usr/lib/modules/a.ko.xz": ""}, errors={"load_module": number})
    load_modules(kernel, (), Log(kernel))  # type: ignore[arg-type]
    assert words in kernel.said
