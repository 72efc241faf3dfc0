"""The names of machines: the directory, the locks, and what a crash leaves."""

import os
import socket
import time
from pathlib import Path

import pytest

from initrd.host.service import names
from initrd.host.system.hosterror import HostError


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    tmp_path.chmod(0o700)
    return {"XDG_RUNTIME_DIR": str(tmp_path)}


@pytest.mark.parametrize("name", ["a", "0", "a-b", "x" * 63])
def test_valid_names(name: str) -> None:
    assert names.check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "A", "a.b", "a/b", "..", "a b", "ä", "x" * 64, "a\n"])
def test_invalid_names(name: str) -> None:
    with pytest.raises(HostError, match="a name has 1 to 63 of the characters"):
        names.check_name(name)


@pytest.mark.parametrize(
    "runtime", ["", "relative", "/nonexistent", "mode", "file"], ids=lambda value: value or "empty"
)
def test_runtime_directory_that_is_not_private_is_not_used(tmp_path: Path, runtime: str) -> None:
    path = tmp_path / runtime
    if runtime == "mode":
        path.mkdir()
        path.chmod(0o755)
    if runtime == "file":
        path.write_text("")
        path.chmod(0o700)
    given = str(path) if runtime in ("mode", "file") else runtime
    found = names.names_directory({"XDG_RUNTIME_DIR": given})
    user = os.geteuid()
    assert found == (f"/tmp/chrootvm-{user}" if user else "/run/chrootvm")


def test_name_is_held_by_one_owner(environment: dict[str, str]) -> None:
    with names.open_names(environment) as folder:
        with names.hold_name(folder, "one"), names.open_names(environment) as other:
            with (
                pytest.raises(
                    HostError,
                    match="cannot give the machine the name one: another machine that runs has it",
                ),
                names.hold_name(other, "one"),
            ):
                pass
            with names.hold_name(other, "two"):
                pass
        with names.hold_name(folder, "one"):
            pass
        assert folder.entries() == []


def test_socket_that_a_crash_has_left_is_removed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with names.open_names(environment) as folder:
        folder.listen("one.sock").close()
        (tmp_path / "chrootvm" / "one.lock").touch(0o600)
    assert names.list_machines(environment) == []
    assert os.listdir(tmp_path / "chrootvm") == []
    with names.open_names(environment) as folder:
        folder.listen("one.sock").close()
    with pytest.raises(
        HostError, match="cannot find the machine one: no machine that runs has a name"
    ):
        names.connect("one", environment)


def test_machine_that_does_not_answer_is_listed_as_starting(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_ANSWER_TIMEOUT", 0.1)
    with names.open_names(environment) as folder, names.hold_name(folder, "one"):
        began = time.monotonic()
        (machine,) = names.list_machines(environment)
        assert (machine["name"], machine["state"]) == ("one", "starting")
        assert machine["owner"] == os.getpid()
        assert time.monotonic() < began + 5
        with pytest.raises(
            HostError, match="cannot find the machine two: the names of those that run are one"
        ):
            names.connect("two", environment)


def test_socket_works_in_a_directory_with_a_long_path(tmp_path: Path) -> None:
    runtime = tmp_path / ("x" * 200)
    runtime.mkdir(mode=0o700)
    with (
        names.open_names({"XDG_RUNTIME_DIR": str(runtime)}) as folder,
        names.hold_name(folder, "one") as listener,
        folder.connect("one.sock") as connection,
    ):
        assert isinstance(connection, socket.socket)
        listener.accept()[0].close()
