"""The command `mkvirtinitrd`: its options, its output, its errors, and their documentation."""

import argparse
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from initrd import __version__
from initrd.host.image import lsinitramfs
from initrd.host.image.compress import METHODS
from tests.host.image.module_trees import REQUIRED, write_tree

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts/mkvirtinitrd"
FILES = {
    **REQUIRED,
    "overlay.ko": (),
    "virtio_blk.ko": (),
    "ext4.ko": (),
    "virtio_net.ko": (),
    "m.ko": (),
}
ALWAYS_INCLUDED = {"virtio_pci", "virtiofs"}


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)


@pytest.fixture
def operands(tmp_path: Path) -> list[str]:
    (tmp_path / "init").write_bytes(b"\x7fELF program")
    return [f"{tmp_path}/init", write_tree(tmp_path / "modules", FILES), f"{tmp_path}/image"]


def modules_in(path: str) -> set[str]:
    names = [os.fsdecode(entry.path) for entry in lsinitramfs.read_entries(Path(path).read_bytes())]
    return {name[len("usr/lib/modules/000-") : -len(".ko")] for name in names if ".ko" in name}


@pytest.mark.parametrize(
    ("options", "added"),
    [
        pytest.param([], set(), id="no option"),
        pytest.param(["--module", "m", "--module=overlay"], {"m", "overlay"}, id="modules"),
        pytest.param(["--overlay"], {"overlay"}, id="overlay"),
        pytest.param(["--block"], {"virtio_blk", "ext4"}, id="block"),
        pytest.param(["--net"], {"virtio_net", "overlay"}, id="net"),
        pytest.param(["--net", "--overlay"], {"virtio_net", "overlay"}, id="both"),
        pytest.param(
            ["--cmdline", "overlay_root=vda debug"], {"overlay", "virtio_blk", "ext4"}, id="cmdline"
        ),
        pytest.param(["--cmdline", "rootfs=x", "--module", "m"], {"m"}, id="cmdline and module"),
    ],
)
def test_each_option_adds_its_modules(
    operands: list[str], options: list[str], added: set[str]
) -> None:
    done = run(*options, *operands)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert modules_in(operands[2]) == ALWAYS_INCLUDED | added


def test_images_are_identical_for_every_hash_seed(operands: list[str]) -> None:
    images = set()
    for seed in ("1", "2", "3"):
        command = [sys.executable, str(SCRIPT), "--block", "--overlay", *operands[:2], "-"]
        done = subprocess.run(
            command, capture_output=True, env={"PYTHONHASHSEED": seed}, check=True
        )
        images.add(done.stdout)
    assert len(images) == 1


@pytest.mark.parametrize("method", METHODS)
def test_an_image_can_be_listed_in_every_compression_format(
    operands: list[str], method: str
) -> None:
    assert run("--compress", method, *operands).returncode == 0
    done = run("--list", operands[2])
    assert done.stdout.decode().splitlines() == [
        "-rwxr-xr-x     0     0         12 init",
        "drwxr-xr-x     0     0          0 usr",
        "drwxr-xr-x     0     0          0 usr/lib",
        "drwxr-xr-x     0     0          0 usr/lib/modules",
        "-rw-r--r--     0     0       1012 usr/lib/modules/000-virtio_pci.ko",
        "-rw-r--r--     0     0        812 usr/lib/modules/001-virtiofs.ko",
    ]


def test_the_image_is_written_to_standard_output_for_a_dash(operands: list[str]) -> None:
    run(*operands)
    assert run(*operands[:2], "-").stdout == Path(operands[2]).read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["{0}", "--module", "m", "{1}", "{2}"],
        ["{0}", "{1}", "--module=m", "{2}"],
        ["--compress", "none", "{0}", "{1}", "{2}", "--module", "m"],
        ["--module", "m", "--", "{0}", "{1}", "{2}"],
    ],
)
def test_options_may_stand_between_the_operands(operands: list[str], words: list[str]) -> None:
    done = run(*(word.format(*operands) for word in words))
    assert (done.returncode, done.stderr) == (0, b"")
    assert modules_in(operands[2]) == ALWAYS_INCLUDED | {"m"}


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"])
def test_the_image_is_written_to_standard_output_by_its_names(
    operands: list[str], name: str
) -> None:
    image = run(*operands[:2], "-").stdout
    done = run(*operands[:2], name)
    assert (done.returncode, done.stdout, done.stderr) == (0, image, b"")


@pytest.mark.parametrize("command", ['"$@" /dev/fd/3 3>{}', '"$@" {}/pipe & cat {}/pipe >{}'])
def test_the_image_is_written_into_what_the_shell_has_opened(
    operands: list[str], tmp_path: Path, command: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    output = f"{tmp_path}/output"
    places = (output,) if command.count("{}") == 1 else (tmp_path, tmp_path, output)
    words = [sys.executable, str(SCRIPT), *operands[:2]]
    shell = ["/bin/sh", "-c", command.format(*places), "sh", *words]
    done = subprocess.run(shell, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert Path(output).read_bytes() == run(*operands[:2], "-").stdout


def test_unused_root_of_the_command_line_is_named_in_a_warning(operands: list[str]) -> None:
    done = run("--cmdline", "rootfs=x root=/dev/sda", *operands)
    assert done.returncode == 0
    warning = "mkvirtinitrd: warning: root=/dev/sda: not used, because rootfs=x is the root\n"
    assert done.stderr.decode() == warning


def test_an_image_can_be_listed_from_standard_input(operands: list[str]) -> None:
    image = run(*operands[:2], "-").stdout
    assert b" init\n" in run("--list", "/dev/stdin", stdin=image).stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"options": ["--module", "nope"]}, "no module nope in ", id="no such module"),
        pytest.param({"options": ["--module", ""]}, "no module  in ", id="empty module"),
        pytest.param({"options": ["--cmdline", "root=x"]}, "root=x: neither", id="bad cmdline"),
        pytest.param({0: "/etc/passwd"}, "/etc/passwd as the image's /init", id="bad INIT"),
        pytest.param({1: "/etc"}, "/etc is no directory of", id="bad MODULES_DIR"),
        pytest.param({2: "/nowhere/x"}, "cannot write /nowhere/x", id="bad OUTPUT"),
        pytest.param({1: "\udcff\n"}, r"\xff\n is no", id="a name that is not UTF-8"),
    ],
)
def test_a_failure_prints_its_reason_and_leaves_no_file(
    operands: list[str], change: dict[object, object], message: str
) -> None:
    changed = [str(change.get(index, operand)) for index, operand in enumerate(operands)]
    options = change.get("options", [])
    assert isinstance(options, list)
    before = sorted(os.listdir(Path(operands[2]).parent))
    done = run(*options, *changed)
    assert done.returncode == 1
    assert done.stderr.startswith(b"mkvirtinitrd: ")
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert sorted(os.listdir(Path(operands[2]).parent)) == before


@pytest.mark.parametrize("place", ["init", "modules/modules.dep", "modules/m.ko", "image"])
def test_a_named_pipe_does_not_stop_the_program(
    operands: list[str], tmp_path: Path, place: str
) -> None:
    (tmp_path / place).unlink(missing_ok=True)
    os.mkfifo(tmp_path / place)
    arguments = ["--list", operands[2]] if place == "image" else ["--module", "m", *operands]
    done = run(*arguments)
    assert done.returncode == 1
    assert f"{tmp_path}/{place}" in done.stderr.decode()
    assert b"it is no regular file but a named pipe\n" in done.stderr


@pytest.mark.parametrize("link", [False, True], ids=["by name", "through a link"])
def test_the_init_program_is_not_overwritten_by_the_image(
    operands: list[str], tmp_path: Path, link: bool
) -> None:
    output = operands[0]
    if link:
        output = f"{tmp_path}/link"
        os.symlink("init", output)
    done = run(*operands[:2], output)
    assert done.returncode == 1
    assert b"it is INIT itself" in done.stderr
    assert Path(operands[0]).read_bytes() == b"\x7fELF program"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no arguments"),
        pytest.param(["init", "modules"], id="no OUTPUT"),
        pytest.param(["a", "b", "c", "d"], id="too many operands"),
        pytest.param(["--list", "image", "b"], id="--list and an operand"),
        pytest.param(["--list"], id="--list without an image"),
        pytest.param(["--compress", "rar", "a", "b", "c"], id="unknown compression"),
        pytest.param(["--mod", "x", "a", "b", "c"], id="an abbreviation"),
    ],
)
def test_wrong_arguments_print_the_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: mkvirtinitrd [--module NAME]... ")


def test_listing_into_a_closed_pipe_prints_no_error(operands: list[str]) -> None:
    run(*operands)
    command = f"{sys.executable} {SCRIPT} --list {operands[2]} | true"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("redirection", "why"),
    [(">/dev/full", "No space left on device"), (">&-", "it is closed")],
    ids=["full", "closed"],
)
def test_standard_output_that_takes_nothing_is_one_sentence(
    operands: list[str], redirection: str, why: str
) -> None:
    run(*operands)
    for words in (["--list", operands[2]], [*operands[:2], "-"]):
        command = f'exec "$@" {redirection}'
        done = subprocess.run(
            ["/bin/sh", "-c", command, "sh", sys.executable, str(SCRIPT), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        message = f"mkvirtinitrd: cannot write to standard output: {why}\n"
        assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize("script", ["mkvirtinitrd", "chrootvm"])
def test_ctrl_c_while_modules_are_imported_is_no_traceback(script: str) -> None:
    program = (
        "import os, runpy, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'initrd':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"runpy.run_path({str(SCRIPT.with_name(script))!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-2, "")


def test_mkvirtinitrd_runs_through_a_link_in_another_directory(
    operands: list[str], tmp_path: Path
) -> None:
    (tmp_path / "mkvirtinitrd").symlink_to(SCRIPT)
    command = [sys.executable, "-I", "mkvirtinitrd", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"mkvirtinitrd {__version__}\n"


def test_the_manual_page_documents_exactly_the_options() -> None:
    page = (REPOSITORY / "man/mkvirtinitrd.8").read_text().replace("\\-", "-")
    options = page.partition(".SH OPTIONS")[2].partition(".SH")[0]
    assert set(re.findall(r"^\.(?:B|BI) \"?(--[a-z]+)", options, re.MULTILINE)) == long_options()


def test_the_readme_documents_exactly_the_options() -> None:
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = page.partition("\n### mkvirtinitrd\n")[2].partition("\n## ")[0]
    explained = set(re.findall(r"^\| `(--[a-z]+)", section, re.MULTILINE))
    assert explained == long_options() - {"--help", "--version"}


def long_options() -> set[str]:
    handler = signal.getsignal(signal.SIGINT)
    syntax = runpy.run_path(str(SCRIPT), run_name="mkvirtinitrd")["parser"]()
    signal.signal(signal.SIGINT, handler)  # the script has set the default
    assert isinstance(syntax, argparse.ArgumentParser)
    return {name for name in syntax._option_string_actions if name.startswith("--")}
