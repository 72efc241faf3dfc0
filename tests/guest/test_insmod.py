"""Loading of kernel modules: names, order, parameters and errors."""

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
def test_module_name_is_derived_from_the_file_name(file: str, name: str) -> None:
    assert module_name(file) == name


def test_parameters_are_passed_only_to_their_module() -> None:
    params = (("a", "x=1"), ("b", "y"), ("a", "z=two text"))
    assert params_of("a", params) == 'x=1 z="two text"'
    assert params_of("c", params) == ""


def test_modules_are_loaded_in_byte_wise_order_of_their_file_names() -> None:
    names = ["10-b.ko", "2-a.ko", "Z.ko", "a.ko", "é.ko", "_.ko"]
    kernel = FakeKernel(files={f"/usr/lib/modules/{name}": "" for name in names})
    load_modules(kernel, (), Log(kernel))  # type: ignore[arg-type]
    loaded = [call[1].rpartition("/")[2] for call in kernel.calls]
    assert loaded == ["10-b.ko", "2-a.ko", "Z.ko", "_.ko", "a.ko", "é.ko"]


def test_files_without_a_module_suffix_are_not_loaded() -> None:
    files = ["a.ko.txt", "modules.dep", "a.ko.xz", "ko"]
    kernel = FakeKernel(files={f"/usr/lib/modules/{name}": "" for name in files})
    load_modules(kernel, (), Log(kernel))  # type: ignore[arg-type]
    assert kernel.calls == [("load_module", "/usr/lib/modules/a.ko.xz", "", 4)]


@pytest.mark.parametrize(
    ("number", "text"),
    [(8, "damaged"), (2, "symbol"), (95, "decompress"), (13, "Permission denied")],
)
def test_warning_about_a_failed_module_explains_the_errno(number: int, text: str) -> None:
    kernel = FakeKernel(files={"/usr/lib/modules/a.ko.xz": ""}, errors={"load_module": number})
    load_modules(kernel, (), Log(kernel))  # type: ignore[arg-type]
    assert text in kernel.output
