"""Each kind of root has an entry in the tables that CONTRIBUTING.md lists."""

import pytest

from initrd import options
from initrd.guest.roots import mount
from initrd.host.image import modules
from initrd.options import RootKind

KINDS = [value for value in vars(options).values() if isinstance(value, RootKind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_root_kind_has_an_entry_in_each_table(kind: RootKind) -> None:
    assert kind.name in mount._KINDS, "initrd/guest/roots/mount.py does not mount it"
    assert kind.name in modules._ROOT_REQUIREMENTS, "initrd/host/image/modules.py lacks it"
