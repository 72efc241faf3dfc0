"""`PrivateFolder.open`: the paths that it accepts, refuses and makes, and races of their names."""

import os
import re
import stat
from pathlib import Path

import pytest

from initrd.host.system.hosterror import HostError
from initrd.host.system.private import PrivateFolder, UnsafeFolder
from tests.host.system.conftest import ROOT, STRANGER, USER, Owners
from tests.host.system.private_files import make, run_processes, write

pytestmark = pytest.mark.usefixtures("no_descriptor_left_open", "empty_umask")


def refuse(path: Path | str, why: str) -> None:
    """Check that the directory is refused, also with `create`, and for this reason."""
    for create in (False, True):
        with pytest.raises(UnsafeFolder) as caught:
            PrivateFolder.open(str(path), create=create)
        assert caught.value.what == f"cannot use the directory {path}"
        assert re.search(why, caught.value.why)


def accept(path: Path, leads_to: Path) -> None:
    """Check that `path` is accepted, and that it is the directory `leads_to`."""
    with PrivateFolder.open(str(path), create=False) as opened:
        write(opened, "proof", b"")
    assert (leads_to / "proof").exists()


# --- the path ------------------------------------------------------------------------------------


def test_missing_components_are_made_for_this_user_only(base: Path) -> None:
    for _ in range(2):
        with PrivateFolder.open(f"{base}//one/./two/", create=True):
            pass
    for path in (base / "one", base / "one/two"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o777 == 0o700


def test_a_component_that_another_process_makes_at_the_same_time_is_used(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def mkdir_twice(name: str, mode: int, *, dir_fd: int) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        mkdir(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir_twice)
    with PrivateFolder.open(f"{base}/one/two", create=True) as opened:
        assert opened.entries() == []


def test_a_missing_directory_is_not_made_without_create(base: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        PrivateFolder.open(f"{base}/one/two", create=False)
    assert caught.value.filename == f"{base}/one"
    assert not os.listdir(base)


@pytest.mark.parametrize("path", ["", ".", "relative/path", "/tmp/../tmp/x", "/.."], ids=repr)
def test_a_path_that_is_not_absolute_or_has_dotdot_is_refused(path: str) -> None:
    refuse(path, "not absolute")


def test_the_root_directory_is_refused(owners: Owners) -> None:
    owners.give(Path("/"), ROOT)
    refuse("/", "it belongs to root")


@pytest.mark.parametrize("path", ["{}/" + "x" * 256, "/proc/initrd/x"], ids=["name", "proc"])
def test_a_component_that_cannot_be_made_is_named(base: Path, path: str) -> None:
    path = path.format(base)
    with pytest.raises(HostError) as caught:
        PrivateFolder.open(path, create=True)
    assert not isinstance(caught.value, UnsafeFolder)
    assert re.search("^/.*: (File name too long|No such file)", caught.value.why)


@pytest.mark.parametrize(
    "mode", [0o500, 0o710, 0o701, 0o770, 0o755, 0o777, 0o1700, 0o1777], ids=oct
)
def test_another_mode_is_refused_and_stays(base: Path, mode: int) -> None:
    make(base / "private", mode)
    refuse(base / "private", f"its mode is {mode:04o}, not 0700")
    assert stat.S_IMODE((base / "private").stat().st_mode) == mode


def test_a_directory_in_one_with_the_setgid_bit_is_accepted(base: Path) -> None:
    base.chmod(0o2755)
    with PrivateFolder.open(f"{base}/private", create=True):
        pass
    (base / "private").chmod(0o2700)
    accept(base / "private", base / "private")


def test_a_directory_above_needs_no_read_permission(base: Path) -> None:
    make(make(base / "search") / "private")
    (base / "search").chmod(0o311)
    accept(base / "search/private", base / "search/private")


@pytest.mark.parametrize("uid", [ROOT, STRANGER])
def test_a_last_component_of_somebody_else_is_refused(owners: Owners, base: Path, uid: int) -> None:
    owners.give(make(base / "private"), uid)
    refuse(base / "private", f"belongs to {'root' if uid == ROOT else 'user 4242'}")


def test_root_with_the_home_of_another_user_is_refused(owners: Owners, base: Path) -> None:
    make(make(base / "home") / "cache")
    owners.user = ROOT
    owners.give(base / "home", STRANGER)
    refuse(base / "home/cache/private", f"{base}/home belongs to user 4242")
    assert not os.listdir(base / "home/cache")


def test_a_directory_of_root_above_is_accepted(owners: Owners, base: Path) -> None:
    make(base / "private")
    owners.give(base, ROOT)
    accept(base / "private", base / "private")


def test_the_owner_of_the_root_directory_is_trusted_as_root_is(owners: Owners, base: Path) -> None:
    owners.changed[owners.key(Path("/").lstat())] = STRANGER  # root, in a user namespace without it
    make(make(make(base / "disk") / "initrd") / "private")
    (base / "link").symlink_to("disk")
    owners.give(base, STRANGER)
    owners.give(base / "link", STRANGER)
    accept(base / "link/initrd/private", base / "disk/initrd/private")
    owners.give(base / "disk/initrd/private", STRANGER)
    refuse(base / "disk/initrd/private", "belongs to user 4242")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o730], ids=oct)
def test_a_directory_above_that_others_can_write_to_is_refused(base: Path, mode: int) -> None:
    make(make(base / "open") / "private")
    (base / "open").chmod(mode)
    refuse(base / "open/private", f"can write to {base}/open")


@pytest.mark.parametrize("mode", [0o1777, 0o1775], ids=oct)
def test_an_own_directory_in_one_with_the_sticky_bit_is_accepted(base: Path, mode: int) -> None:
    make(make(base / "open", mode) / "private")
    accept(base / "open/private", base / "open/private")


@pytest.mark.parametrize("uid", [ROOT, STRANGER])
def test_a_directory_of_somebody_else_in_one_with_the_sticky_bit_is_refused(
    owners: Owners, base: Path, uid: int
) -> None:
    make(make(make(base / "open", 0o1777) / "theirs") / "private")
    owners.give(base / "open/theirs", uid)
    refuse(base / "open/theirs/private", f"{base}/open/theirs belongs to")


@pytest.mark.parametrize("below", ["", "/private", "/a/b"])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_component_that_is_no_directory_is_refused(base: Path, kind: str, below: str) -> None:
    if kind == "file":
        (base / "name").touch()
    else:
        os.mkfifo(base / "name")
    refuse(f"{base}/name{below}", f"{base}/name is no directory")


# --- symbolic links in the path ------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "/private"], ids=["last", "last but one"])
def test_a_link_in_the_last_two_components_is_refused(base: Path, below: str) -> None:
    make(make(base / "real") / "private")
    (base / "link").symlink_to("real")
    refuse(f"{base}/link{below}", f"{base}/link is a symbolic link")


def test_a_link_of_root_in_the_last_two_components_is_refused(owners: Owners, base: Path) -> None:
    make(make(base / "real") / "private")
    (base / "link").symlink_to("real")
    owners.give(base, ROOT)
    owners.give(base / "link", ROOT)
    refuse(f"{base}/link/private", f"{base}/link is a symbolic link")


@pytest.mark.parametrize("target", ["{}/disk/cache", "../disk/./cache", "/../{}/disk//cache/"])
def test_an_own_link_above_is_followed(base: Path, target: str) -> None:
    for path in ("home", "disk", "disk/cache", "disk/cache/initrd", "disk/cache/initrd/private"):
        make(base / path)
    (base / "home/.cache").symlink_to(target.format(base))
    accept(base / "home/.cache/initrd/private", base / "disk/cache/initrd/private")


def test_directories_are_made_below_a_link_that_is_followed(base: Path) -> None:
    make(base / "disk")
    (base / "link").symlink_to("disk")
    with PrivateFolder.open(f"{base}/link/initrd/private", create=True):
        pass
    assert (base / "disk/initrd/private").is_dir()


def test_a_link_of_root_in_a_directory_of_root_is_followed(owners: Owners, base: Path) -> None:
    make(make(make(base / "disk") / "initrd") / "private")
    (base / "link").symlink_to("disk")
    owners.give(base, ROOT)
    owners.give(base / "link", ROOT)
    accept(base / "link/initrd/private", base / "disk/initrd/private")


@pytest.mark.parametrize(
    ("owner", "mode", "link_owner"),
    [
        pytest.param(USER, 0o755, ROOT, id="of root, in a directory of this user"),
        pytest.param(ROOT, 0o1777, USER, id="of this user, in a directory with the sticky bit"),
        pytest.param(USER, 0o1777, USER, id="of this user, in such a directory of the user"),
    ],
)
def test_a_link_that_others_can_replace_is_refused(
    owners: Owners, base: Path, owner: int, mode: int, link_owner: int
) -> None:
    make(make(make(base / "disk") / "initrd") / "private")
    make(base / "links", mode)
    (base / "links/link").symlink_to("../disk")
    if owner == ROOT:
        owners.give(base / "links", ROOT)
    if link_owner == ROOT:
        owners.give(base / "links/link", ROOT)
    refuse(base / "links/link/initrd/private", "can write beside the symbolic link")


def test_a_link_of_somebody_else_is_refused(owners: Owners, base: Path) -> None:
    make(make(make(base / "disk") / "initrd") / "private")
    (base / "link").symlink_to("disk")
    owners.give(base / "link", STRANGER)
    refuse(base / "link/initrd/private", f"the symbolic link {base}/link belongs to user 4242")


@pytest.mark.parametrize("fault", ["mode", "owner"])
def test_the_components_of_a_link_target_are_checked(
    owners: Owners, base: Path, fault: str
) -> None:
    make(make(make(make(base / "disk") / "cache") / "initrd") / "private")
    (base / "link").symlink_to("disk/cache")
    if fault == "mode":
        (base / "disk").chmod(0o777)
    else:
        owners.give(base / "disk", STRANGER)
    refuse(base / "link/initrd/private", f"{base}/disk( belongs to user 4242)?$")


@pytest.mark.parametrize("target", ["gone", "disk/gone", "second"])
def test_a_dangling_link_is_refused_and_its_target_is_not_made(base: Path, target: str) -> None:
    make(base / "disk")
    (base / "link").symlink_to(target)
    (base / "second").symlink_to("disk/../gone")
    refuse(base / "link/initrd/private", f"symbolic link {base}/link leads to .*, which does not")
    assert sorted(os.listdir(base)) == ["disk", "link", "second"]


def test_a_missing_component_below_a_link_is_not_called_a_dangling_link(base: Path) -> None:
    make(base / "disk")
    (base / "link").symlink_to("disk")
    with pytest.raises(FileNotFoundError):
        PrivateFolder.open(f"{base}/link/initrd/private", create=False)


def test_a_loop_of_links_is_refused(base: Path) -> None:
    (base / "one").symlink_to("two")
    (base / "two").symlink_to("one")
    refuse(base / "one/initrd/private", "more than 40 symbolic links")


def test_forty_links_are_followed_and_no_more(base: Path) -> None:
    make(make(make(base / "link0") / "initrd") / "private")
    for number in range(41):
        (base / f"link{number + 1}").symlink_to(f"link{number}")
    accept(base / "link40/initrd/private", base / "link0/initrd/private")
    refuse(base / "link41/initrd/private", "more than 40 symbolic links")


# --- races of names ------------------------------------------------------------------------------


@pytest.mark.parametrize("swapped", ["home", "home/cache", "home/cache/private"])
def test_a_component_replaced_by_a_link_after_its_check_changes_nothing(
    owners: Owners, base: Path, swapped: str
) -> None:
    for path in ("home", "home/cache", "home/cache/private", "trap", "trap/cache"):
        make(base / path)
    make(base / "trap/private")
    make(base / "trap/cache/private")

    def swap() -> None:
        (base / swapped).rename(base / "moved")
        (base / swapped).symlink_to(base / "trap")

    owners.after_the_check_of(base / swapped, swap)
    with PrivateFolder.open(f"{base}/home/cache/private", create=False) as opened:
        write(opened, "proof", b"")
    assert not list((base / "trap").rglob("proof"))
    assert list((base / "moved").rglob("proof"))


def test_a_link_replaced_after_its_check_is_not_read_again(owners: Owners, base: Path) -> None:
    for path in ("disk", "trap"):
        make(make(make(base / path) / "initrd") / "private")
    (base / "link").symlink_to("disk")

    def swap() -> None:
        (base / "link").rename(base / "moved")
        (base / "link").symlink_to("trap")

    owners.after_the_check_of(base / "link", swap)
    accept(base / "link/initrd/private", base / "disk/initrd/private")


def test_a_directory_replaced_by_a_link_between_two_operations_changes_nothing(
    folder: PrivateFolder, files: Path, base: Path
) -> None:
    descriptor, temporary = folder.create_temporary()
    os.close(descriptor)
    files.rename(base / "moved")
    make(base / "trap")
    files.symlink_to("trap")
    folder.commit(temporary, "name", durable=True)
    assert [name for name, _ in folder.entries()] == os.listdir(base / "moved") == ["name"]
    folder.remove("name")
    assert os.listdir(base / "moved") == os.listdir(base / "trap") == []


def test_processes_that_make_the_directory_at_once_all_open_it(base: Path) -> None:
    run_processes(
        "from initrd.host.system.private import PrivateFolder\n"
        "for number in range(300):\n"
        "    with PrivateFolder.open(f'{sys.argv[1]}/{number}/x', create=True): pass\n",
        str(base),
    )
    assert len(os.listdir(base)) == 300
