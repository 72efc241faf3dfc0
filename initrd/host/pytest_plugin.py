"""A pytest plugin: the fixtures `vm` and `machine`, virtual machines of a directory.

    def test_x(vm):  # a machine for each command
        assert vm.run("uname", "-s").stdout == "Linux\n"

    def test_y(machine):  # one machine for all commands, of the whole session
        assert machine.run("uname", "-s").stdout == "Linux\n"

With `vm_machine_scope = module` in pytest's configuration each module has a machine.

The directory comes from `--vm-root DIR`, from `vm_root = DIR` in pytest's configuration, or from a
fixture `vm_root` of the project's own.
"""

import os
import shlex
from collections.abc import Iterator
from typing import Literal, cast

import pytest

from initrd.host.vm import Machine, Vm, boot

_SCOPES = ("session", "package", "module", "class", "function")
Scope = Literal["session", "package", "module", "class", "function"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name the directory and the options of chrootvm."""
    group = parser.getgroup("vm", "virtual machines that boot a directory")
    group.addoption("--vm-root", metavar="DIR", help="directory that the fixture vm boots")
    group.addoption(
        "--vm-options", metavar="WORDS", help="options of chrootvm for it, such as '--memory 2G'"
    )
    parser.addini("vm_root", "directory that the fixtures boot, relative to this file")
    parser.addini(
        "vm_machine_scope", f"how often the fixture machine boots: one of {', '.join(_SCOPES)}"
    )
    parser.addini("vm_options", "options of chrootvm for it, such as --memory 2G")


@pytest.fixture(scope="session")
def vm_root(pytestconfig: pytest.Config) -> str:
    """Return the directory that is booted; a project's own fixture may have this name."""
    given = pytestconfig.getoption("--vm-root")
    if given:
        return os.path.join(pytestconfig.invocation_params.dir, given)
    configured = str(pytestconfig.getini("vm_root"))
    if not configured:
        raise pytest.UsageError(
            "no directory for the fixture vm: give --vm-root DIR, or set vm_root in pytest's "
            "configuration, or write a fixture vm_root that returns one"
        )
    return os.path.join(pytestconfig.inipath.parent if pytestconfig.inipath else "", configured)


@pytest.fixture(scope="session")
def vm_options(pytestconfig: pytest.Config) -> tuple[str, ...]:
    """Return options of chrootvm, as words; a project's own fixture may have this name."""
    given = pytestconfig.getoption("--vm-options") or pytestconfig.getini("vm_options")
    return tuple(shlex.split(given))


@pytest.fixture(scope="session")
def vm(vm_root: str, vm_options: tuple[str, ...]) -> Vm:
    """Return a virtual machine; each `vm.run` boots a new one, so that tests stay independent."""
    return Vm(os.fspath(vm_root), tuple(vm_options))


def _machine_scope(fixture_name: str, config: pytest.Config) -> Scope:
    scope = str(config.getini("vm_machine_scope")) or _SCOPES[0]
    if scope not in _SCOPES:
        raise pytest.UsageError(
            f"vm_machine_scope = {scope}: the fixture {fixture_name} has one of the scopes "
            f"{', '.join(_SCOPES)}"
        )
    return cast("Scope", scope)


@pytest.fixture(scope=_machine_scope)
def machine(vm_root: str, vm_options: tuple[str, ...]) -> Iterator[Machine]:
    """Return a running machine, which the commands of several tests share."""
    with boot(os.fspath(vm_root), text=True, words=vm_options) as running:
        yield running
