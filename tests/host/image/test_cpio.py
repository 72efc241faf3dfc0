"""Archives that `cpio` packs, read back by `lsinitramfs`."""

import random
import stat

import pytest

from initrd.host.image import cpio, lsinitramfs

UNUSUAL_NAMES = (
    b"a b",
    b"\xff\xfe",
    b"line\nbreak",
    b"-dash",
    "käse".encode(),
    b"x" * 4095,
    b"*?[",
)


def members(image: bytes) -> list[cpio.Entry]:
    return list(lsinitramfs.read_entries(image))


def paths(image: bytes) -> list[bytes]:
    return [entry.path for entry in members(image)]


def test_every_kind_of_file_survives_packing_and_reading() -> None:
    entries = [
        cpio.device("console", stat.S_IFCHR | 0o600, 5, 1),
        cpio.directory("empty", 0o1777),
        cpio.file("init", b"\x7fELF", 0o4755),
        cpio.symlink("sh", "busybox"),
        cpio.device("vda", stat.S_IFBLK | 0o660, 254, 0),
    ]
    assert members(cpio.pack(entries)) == entries


def test_owners_and_times_survive_packing_and_reading() -> None:
    entry = cpio.file("f", b"x").replace(uid=1000, gid=0xFFFFFFFE, mtime=1_700_000_000)
    assert members(cpio.pack([entry])) == [entry]


def test_missing_parent_directories_are_added_before_their_children() -> None:
    assert paths(cpio.pack([cpio.file("usr/lib/x", b""), cpio.file("usr-1", b"")])) == [
        *(b"usr", b"usr-1", b"usr/lib", b"usr/lib/x"),
    ]


def test_a_directory_given_as_an_entry_keeps_its_mode() -> None:
    image = cpio.pack([cpio.file("root/.profile", b""), cpio.directory("root", 0o700)])
    assert members(image)[0] == cpio.directory("root", 0o700)


def test_an_archive_does_not_depend_on_the_order_of_the_entries() -> None:
    entries = [cpio.file(name, name * 3) for name in UNUSUAL_NAMES]
    entries += [cpio.hard_link("link", b"a b"), cpio.file("usr/lib/x", b"")]
    image = cpio.pack(entries)
    for seed in range(20):
        random.Random(seed).shuffle(entries)
        assert cpio.pack(iter(entries)) == image


def test_unusual_names_and_contents_survive_packing_and_reading() -> None:
    entries = [cpio.file(name, b"070701" + name) for name in UNUSUAL_NAMES]
    entries.append(cpio.symlink("zz", b"TRAILER!!!\xff\n"))
    assert {member.path: member.data for member in members(cpio.pack(entries))} == {
        entry.path: entry.data for entry in entries
    }


def test_the_names_of_a_hard_linked_file_share_mode_and_content() -> None:
    entries = [
        cpio.hard_link("a", "b"),
        cpio.file("b", b"content", 0o711),
        cpio.hard_link("c", "b"),
    ]
    first, second, third = members(cpio.pack(entries))
    assert [first.data, second.data, third.data] == [b"", b"content", b""]
    assert [first.link, second.link, third.link] == [b"", b"a", b"a"]
    assert {entry.mode for entry in (first, second, third)} == {stat.S_IFREG | 0o711}


def test_random_trees_survive_packing_and_reading() -> None:
    for seed in range(100):
        entries = random_tree(random.Random(seed))
        image = cpio.pack(entries)
        assert len(image) % 4 == 0
        read_back = {entry.path: entry for entry in members(image)}
        assert {path: read_back[path] for path in (entry.path for entry in entries)} == {
            entry.path: entry for entry in entries
        }


def random_tree(rng: random.Random) -> list[cpio.Entry]:
    folders = (b"", b"usr/", b"usr/lib/", b"\xfe\xff/")
    letters = bytes(set(range(1, 256)) - set(b"/."))
    names = {rng.choice(folders) + bytes(rng.choices(letters, k=8)) for _ in range(9)}
    return [random_entry(rng, name) for name in sorted(names)]


def random_entry(rng: random.Random, name: bytes) -> cpio.Entry:
    mode = rng.randrange(0o10000)
    kinds = (
        cpio.file(name, rng.randbytes(rng.randrange(9)), mode),
        cpio.symlink(name, rng.randbytes(5)),
        cpio.device(name, stat.S_IFIFO | mode, 0, 0),
        cpio.device(name, stat.S_IFBLK | mode, rng.randrange(1 << 32), rng.randrange(1 << 32)),
    )
    return rng.choice(kinds)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        pytest.param([cpio.file("/init", b"")], "not a plain relative path", id="absolute"),
        pytest.param([cpio.file("", b"")], "not a plain relative path", id="empty"),
        pytest.param([cpio.file("a/../b", b"")], "not a plain relative path", id="dot-dot"),
        pytest.param([cpio.file("a//b", b"")], "not a plain relative path", id="two slashes"),
        pytest.param([cpio.file("a/", b"")], "not a plain relative path", id="slash at the end"),
        pytest.param([cpio.file("a\0b", b"")], "not a plain relative path", id="NUL"),
        pytest.param([cpio.file("TRAILER!!!", b"")], "cannot hold", id="the trailer's name"),
        pytest.param(
            [cpio.file("x" * 4096, b"")], "cannot hold", id="longer than the kernel reads"
        ),
        pytest.param([cpio.symlink("a", "x" * 4096)], "cannot hold", id="long link"),
        pytest.param([cpio.file("a", b""), cpio.directory("a")], "there twice", id="twice"),
        pytest.param(
            [cpio.file("a", b""), cpio.file("a/b", b"")], "no directory", id="below a file"
        ),
        pytest.param(
            [cpio.symlink("a", "b"), cpio.file("a/c", b"")], "no directory", id="below a link"
        ),
        pytest.param([cpio.hard_link("a", "b")], "hard link to b", id="link to a missing path"),
        pytest.param([cpio.hard_link("a", "a")], "hard link to a", id="link to itself"),
        pytest.param(
            [cpio.hard_link("a", "d"), cpio.directory("d")],
            "hard link to d",
            id="link to directory",
        ),
        pytest.param(
            [cpio.device("a", stat.S_IFCHR, 1 << 32, 0)], "32 bits", id="number too large"
        ),
        pytest.param([cpio.file("a", b"").replace(mtime=-1)], "32 bits", id="before 1970"),
    ],
)
def test_entries_that_an_archive_cannot_hold_are_refused(
    entries: list[cpio.Entry], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cpio.pack(entries)


@pytest.mark.parametrize("size", range(9))
def test_an_archive_can_follow_a_gap(size: int) -> None:
    padding = cpio.padding(size)
    assert (size + len(padding)) % 4 == 0
    assert padding.startswith(bytes(4))
