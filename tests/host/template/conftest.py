"""A launch for the tests of templates, and a check of their descriptors."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.host.machine.launch import Launch
from tests.host.template.machines import fake_launch


@pytest.fixture(autouse=True)
def no_descriptor_left_open() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def launch(tmp_path: Path, no_descriptor_left_open: None) -> Iterator[Launch]:
    """A launch whose QEMU is `fake_qemu.py`."""
    with fake_launch(tmp_path) as launch:
        yield launch
