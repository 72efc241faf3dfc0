"""`make install` and `make uninstall` with a temporary DESTDIR, and the wheel."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
FAKE_INIT = "#!/bin/sh\necho fake\n"


def make(target: str, tmp_path: Path, *variables: str) -> None:
    """Run make with a fake `dist/init`, which make does not rebuild."""
    dist = tmp_path / "dist"
    dist.mkdir(exist_ok=True)
    (dist / "init").write_text(FAKE_INIT, encoding="utf-8")
    command = ["make", "--silent", "-C", str(TOP), "-o", f"{dist}/init", target]
    command += [f"DIST={dist}", f"DESTDIR={tmp_path}/root", f"PYTHON={sys.executable}", *variables]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    subprocess.run(command, check=True, env=environ)


def installed_files(tmp_path: Path) -> set[str]:
    found = (tmp_path / "root").rglob("*")
    return {str(path.relative_to(tmp_path / "root")) for path in found if not path.is_dir()}


@pytest.mark.parametrize(
    ("variables", "prefix", "libdir"),
    [
        pytest.param((), "usr/local", "usr/local/lib", id="default"),
        pytest.param(("PREFIX=/usr",), "usr", "usr/lib", id="PREFIX"),
        pytest.param(("PREFIX=/usr", "LIBDIR=/usr/lib64"), "usr", "usr/lib64", id="LIBDIR"),
        pytest.param(
            ("PREFIX=/opt/initrd 1",), "opt/initrd 1", "opt/initrd 1/lib", id="PREFIX with a space"
        ),
    ],
)
def test_installed_programs_run_and_uninstall_removes_all_files(
    tmp_path: Path, variables: tuple[str, ...], prefix: str, libdir: str
) -> None:
    make("install", tmp_path, *variables)
    root = tmp_path / "root"
    assert (root / libdir / "osbuild/initrd/initrd").read_text(encoding="utf-8") == FAKE_INIT
    assert os.access(root / libdir / "osbuild/initrd/initrd", os.X_OK)
    assert (root / prefix / "share/man/man8/mkvirtinitrd.8").exists()
    for script in ("mkvirtinitrd", "chrootvm"):
        command = [sys.executable, str(root / prefix / "bin" / script), "--version"]
        run = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
        assert run.stdout.startswith(script)
    make("uninstall", tmp_path, *variables)
    assert installed_files(tmp_path) == set()


def test_init_for_another_architecture_is_installed_where_it_was_built(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/init-aarch64").write_text("for arm\n", encoding="utf-8")
    make("install", tmp_path, "PREFIX=/usr")
    installed = tmp_path / "root/usr/lib/osbuild/initrd/initrd-aarch64"
    assert installed.read_text(encoding="utf-8") == "for arm\n"
    assert os.access(installed, os.X_OK)
    make("uninstall", tmp_path, "PREFIX=/usr")
    assert installed_files(tmp_path) == set()


def test_installation_writes_no_file_outside_of_the_prefix(tmp_path: Path) -> None:
    make("install", tmp_path, "PREFIX=/usr")
    assert {path.split("/")[0] for path in installed_files(tmp_path)} == {"usr"}


@pytest.mark.built
def test_wheel_contains_init_the_pytest_plugin_and_the_scripts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("initrd", "scripts", "dist"):
        shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(TOP / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    options = ["--no-index", "--no-deps", "--no-build-isolation", f"--target={tmp_path}/site"]
    subprocess.run([*pip, *options, str(source)], check=True)
    code = (
        "from importlib.metadata import entry_points\n"
        "from initrd.host.machine.locate import find_init\n"
        "(plugin,) = (one for one in entry_points(group='pytest11') if 'initrd' in one.value)\n"
        "print(find_init('', {}), plugin.load().__name__)\n"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}/site"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, check=True, env=environ, cwd="/", capture_output=True, text=True)
    assert run.stdout.split() == [
        f"{tmp_path}/site/initrd/freeze/init",
        "initrd.host.pytest_plugin",
    ]
    assert os.access(tmp_path / "site/initrd/freeze/init", os.X_OK)
    script = [sys.executable, str(tmp_path / "site/bin/chrootvm"), "--version"]
    run = subprocess.run(script, check=True, env=environ, capture_output=True, text=True, cwd="/")
    assert run.stdout.startswith("chrootvm")
