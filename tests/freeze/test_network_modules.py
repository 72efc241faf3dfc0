"""dist/init contains all modules that `ip=` imports, outside the modules of every start."""

import _imp
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from initrd.freeze.analysis import NOT_PACKED

pytestmark = pytest.mark.built

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Calls the functions with deferred imports, in an interpreter with nothing but a search path. Names
# such as os.path, and since Python 3.13 collections.abc, are a second name of another module.
PROGRAM = """
import sys
sys.path[:] = {!r}
from initrd.guest.network import configure, netlink, resolv
netlink.address_message(1, "10.0.0.1", 8).encode()
netlink.gateway_message(1, "10.0.0.2", onlink=True).encode()
netlink._read_acknowledgement(bytes.fromhex("24000000 02000000" + "00" * 28))
specs = {{name: getattr(module, "__spec__", None) for name, module in sys.modules.items()}}
print(*(name for name, spec in specs.items() if spec and spec.name == name))
"""


@pytest.fixture(scope="module")
def analysis() -> Any:
    with open(f"{TOP}/build/freeze/analysis.json", encoding="utf-8") as file:
        return json.load(file)


def names(modules: list[list[str]]) -> set[str]:
    return {name for name, _ in modules}


def modules_imported_by_the_network() -> set[str]:
    command = [sys.executable, "-I", "-S", "-c", PROGRAM.format([TOP, *sys.path])]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {name for name in found if not _imp.is_frozen(name)} - {"__main__"}


def test_init_contains_all_modules_that_the_network_imports(analysis: Any) -> None:
    inside = names(analysis["all"]) | names(analysis["all_extensions"])
    elsewhere = {*analysis["builtins"], *sys.builtin_module_names, *NOT_PACKED}
    assert modules_imported_by_the_network() - elsewhere - inside == set()


def test_modules_of_a_start_contain_no_network_modules(analysis: Any) -> None:
    start = names(analysis["start"]) | names(analysis["start_extensions"])
    assert {name for name in start if "network" in name or "pyroute2" in name} == set()
    assert not {"socket", "_socket", "re", "logging"} & start


def test_init_leaves_out_modules_that_netlink_messages_do_not_need(analysis: Any) -> None:
    inside = names(analysis["all"]) | names(analysis["all_extensions"])
    assert not {"asyncio", "_ctypes", "multiprocessing", "ssl", "_ssl", "sqlite3"} & inside
