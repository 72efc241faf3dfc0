"""A machine for tests that plan a launch: its programs are scripts, and it is never started."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.host.machine.config import Machine
from initrd.host.system.cached import Cache
from initrd.options import Root, Share


def write_program(path: Path, script: str = "exit 0") -> str:
    """Write an executable shell script; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def root_share(path: str, *, writable: bool = False) -> Share:
    """Return the root of a machine: the directory `path`, read-only as without --rw."""
    return Share(Root.source, source=path, writable=writable)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """An empty cache."""
    with Cache(f"{tmp_path}/cache") as opened:
        yield opened


QEMU = "echo QEMU emulator version 9.9 with vhost-user-fs-pci"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine whose kernel has every driver built in, with scripts for QEMU and virtiofsd."""
    root = tmp_path / "root, with a comma"
    modules = root / "usr/lib/modules/6.1"
    modules.mkdir(parents=True)
    (modules / "vmlinuz").write_text("")
    (modules / "modules.dep").write_text("")
    (modules / "modules.builtin").write_text("a/virtio_pci.ko\na/virtiofs.ko\n")
    write_program(root / "usr/sbin/busybox")
    (tmp_path / "init").write_bytes(b"\x7fELF and more")
    return Machine(
        root=root_share(str(root)),
        accel="tcg",
        init_program=str(tmp_path / "init"),
        qemu=write_program(tmp_path / "qemu", QEMU),
        virtiofsd=write_program(tmp_path / "virtiofsd", "echo --shared-dir --readonly"),
    )
