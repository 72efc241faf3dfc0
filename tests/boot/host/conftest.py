"""The virtual machine in which tests of the Python interface run their commands."""

import pytest

from initrd.host.vm import Vm


@pytest.fixture
def vm(vm_root: str, start: str) -> Vm:
    """A virtual machine to run commands in, started in each way."""
    return Vm(vm_root, ("--warm",) if start == "warm" else ())
