"""A pytest plugin: the fixture `vm`, a directory's virtual machine to run commands in.

    def test_x(vm):
        assert vm.run("uname", "-s").stdout == "Linux\n"

The directory comes from `--vm-root DIR`, from `vm_root = DIR` in pytest's configuration, or from a
fixture `vm_root` of the project's own.
"""

import os
import shlex

import pytest

from initrd.host.vm import Vm


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name the directory and the options of chrootvm."""
    group = parser.getgroup("vm", "virtual machines that boot a directory")
    group.addoption("--vm-root", metavar="DIR", help="directory that the fixture vm boots")
    group.addoption(
        "--vm-options", metavar="WORDS", help="options of chrootvm for it, such as '--memory 2G'"
    )
    parser.addini("vm_root", "directory that the fixture vm boots, relative to this file")
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
