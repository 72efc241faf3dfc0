"""What of the network is in dist/init: all that `ip=` imports, and nothing of it in a start."""

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

# Does everything that needs an import, in an interpreter that has nothing but the search path.
RUN = """
import sys
sys.path[:] = {!r}
from initrd.guest.network import configure, netlink, resolv
netlink.address_message(1, "10.0.0.1", 8).encode()
netlink.gateway_message(1, "10.0.0.2", onlink=True).encode()
netlink._read_acknowledgement(bytes.fromhex("24000000 02000000" + "00" * 28))
print(*(name for name, module in sys.modules.items() if hasattr(module, "__spec__")))
"""


@pytest.fixture(scope="module")
def analysis() -> Any:
    with open(f"{TOP}/build/freeze/analysis.json", encoding="utf-8") as file:
        return json.load(file)


def names(modules: list[list[str]]) -> set[str]:
    return {name for name, _ in modules}


def imported() -> set[str]:
    command = [sys.executable, "-I", "-S", "-c", RUN.format([TOP, *sys.path])]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {name for name in found if not _imp.is_frozen(name)} - {"__main__"}


def test_all_that_the_network_imports_is_inside(analysis: Any) -> None:
    inside = names(analysis["all"]) | names(analysis["all_extensions"])
    elsewhere = {*analysis["builtins"], *sys.builtin_module_names, *NOT_PACKED}
    assert imported() - elsewhere - inside == set()


def test_a_start_brings_nothing_of_it(analysis: Any) -> None:
    start = names(analysis["start"]) | names(analysis["start_extensions"])
    assert {name for name in start if "network" in name or "pyroute2" in name} == set()
    assert not {"socket", "_socket", "re", "logging"} & start


def test_what_a_message_does_not_need_stays_out(analysis: Any) -> None:
    inside = names(analysis["all"]) | names(analysis["all_extensions"])
    assert not {"asyncio", "_ctypes", "multiprocessing", "ssl", "_ssl", "sqlite3"} & inside
