"""Names in a root, options, the environment, and texts of a guest never reach the terminal raw.

Each test plants HOSTILE in one of them. What a program prints has to be printable, and no line of
it may begin with what HOSTILE has after its line break.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from initrd.host import named
from initrd.host.command.protocol import GuestWarnings
from initrd.host.image.cpio import Entry, pack
from initrd.host.machine.cli import parse
from initrd.host.machine.config import Machine
from initrd.host.qemu import console
from initrd.host.report.report import render
from initrd.host.report.timeline import Phase
from initrd.host.system.deadline import Deadline
from initrd.host.system.hosterror import HostError
from initrd.host.system.process import Process, Program
from initrd.host.system.terminal import MessageWriter
from initrd.host.vm import CommandFailed
from tests.host.conftest import QEMU, root_share, write_program
from tests.host.image.module_trees import REQUIRED, write_tree

SCRIPTS = Path(__file__).parents[2] / "scripts"
FORGED = "ok_it_will_boot"
HOSTILE_WORD = "x\x1b[2J\udc9b\u202e\x9b31m" + FORGED
HOSTILE_LINE = f"{HOSTILE_WORD}\r\u2028\x85{FORGED}"
HOSTILE = f"{HOSTILE_LINE}\n{FORGED}"
DRIVERS = ("pci", "console", "blk", "net")  # names of modules after `virtio_`
HELP_OF_VIRTIOFSD = 'if [ "$1" = --help ]; then echo --shared-dir --readonly; exit; fi'


def check_printed(*printed: bytes) -> None:
    """Check that FORGED was printed, that it begins no line, and that all is printable."""
    lines = b"\n".join(printed).decode().split("\n")
    assert any(FORGED in line for line in lines), lines
    assert [line for line in lines if line.startswith(FORGED)] == []
    assert [line for line in lines if not line.isprintable()] == []


def run(
    program: str, folder: Path, *words: str, cache: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Run a program; `folder` is its working directory, and has what it keeps."""
    command = [sys.executable, str(SCRIPTS / program), *words]
    places = {"XDG_STATE_HOME": str(folder), "XDG_CACHE_HOME": cache or str(folder)}
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **places},
        capture_output=True,
        check=False,
        timeout=60,
    )


def words_of(machine: Machine) -> list[str]:
    for builtin in Path(machine.root.source).glob("usr/lib/modules/*/modules.builtin"):
        drivers = "".join(f"a/virtio_{name}.ko\n" for name in DRIVERS)
        builtin.write_text(f"{builtin.read_text()}{drivers}a/ext4.ko\na/overlay.ko\n")
    programs = ("--qemu", machine.qemu, "--virtiofsd", machine.virtiofsd)
    modules = [f"--module={name}" for name in machine.module]
    return [*programs, "--init", machine.init_program, *modules, machine.root.source]


def rename_root(machine: Machine) -> Machine:
    path = f"{machine.root.source}{HOSTILE}"
    os.rename(machine.root.source, path)
    return machine.replace(root=root_share(path))


def add_kernel(machine: Machine) -> Machine:
    Path(machine.root.source, "boot").mkdir()
    Path(machine.root.source, f"boot/vmlinuz-9{HOSTILE}").write_text("")
    return machine


def add_release(machine: Machine) -> Machine:
    os.rename(
        f"{machine.root.source}/usr/lib/modules/6.1",
        f"{machine.root.source}/usr/lib/modules/9{HOSTILE}",
    )
    return machine


def write_release_in_kernel(machine: Machine) -> Machine:
    head = bytearray(0x600)
    head[0x202:0x206], head[0x20E:0x210] = b"HdrS", (0x200).to_bytes(2, "little")
    release = f"9{HOSTILE}".encode(errors="surrogateescape")
    Path(machine.root.source).with_name("image").write_bytes(bytes(head[:0x400]) + release + b"\0")
    return machine.replace(kernel=str(Path(machine.root.source).with_name("image")))


def add_module(machine: Machine) -> Machine:
    return write_modules(machine, f"virtiofs.ko: {HOSTILE_WORD}.ko\n{HOSTILE_WORD}.ko:\n")


def add_module_that_is_missing(machine: Machine) -> Machine:
    machine = write_modules(machine, f"virtiofs.ko: {HOSTILE_WORD}.ko\n{HOSTILE_WORD}.ko:\n")
    Path(machine.root.source, f"usr/lib/modules/6.1/{HOSTILE_WORD}.ko").unlink()
    return machine


def add_dependency_that_is_not_listed(machine: Machine) -> Machine:
    return write_modules(machine, f"virtiofs.ko: {HOSTILE_WORD}.ko\n")


def write_modules(machine: Machine, listed: str) -> Machine:
    """Replace the modules that are built in by these lines of modules.dep, and their files."""
    folder = Path(machine.root.source, "usr/lib/modules/6.1")
    (folder / "modules.builtin").write_text("")
    files = [*(f"virtio_{name}.ko" for name in DRIVERS), "ext4.ko", "overlay.ko"]
    lines = listed + "".join(f"{file}:\n" for file in files)
    (folder / "modules.dep").write_bytes(lines.encode(errors="surrogateescape"))
    for file in ("virtiofs.ko", f"{HOSTILE_WORD}.ko", *files):
        (folder / file).write_bytes(b"\x7fELF of a module")
    return machine


def add_alias(machine: Machine) -> Machine:
    folder = Path(machine.root.source, "usr/lib/modules/6.1")
    lines = f"alias virtiofs {HOSTILE_LINE}\n"
    (folder / "modules.alias").write_bytes(lines.encode(errors="surrogateescape"))
    return machine.replace(module=("virtiofs", HOSTILE))


def replace_qemu(machine: Machine) -> Machine:
    script = f"printf '9{HOSTILE_LINE}'; echo ' vhost-user-fs-pci'"
    path = Path(machine.qemu)
    path.write_bytes(f"#!/bin/sh\n{script}\n".encode(errors="surrogateescape"))
    os.rename(path, f"{path}{HOSTILE}")
    return machine.replace(qemu=f"{path}{HOSTILE}")


PLANTS: list[Callable[[Machine], Machine]] = [
    rename_root,
    add_kernel,
    add_release,
    add_module,
    add_module_that_is_missing,
    add_dependency_that_is_not_listed,
    add_alias,
    replace_qemu,
]


@pytest.mark.parametrize("plant", [*PLANTS, write_release_in_kernel])
def test_doctor_prints_no_name_as_it_is(
    machine: Machine, tmp_path: Path, plant: Callable[[Machine], Machine]
) -> None:
    done = run("chrootvm", tmp_path, "--doctor", *words_of(plant(machine)))
    if plant is not write_release_in_kernel:
        check_printed(done.stdout, done.stderr)
    assert b"\nit will" in done.stdout


@pytest.mark.parametrize(
    ("plant", "action"),
    [
        *((plant, "--dry-run") for plant in (rename_root, add_kernel, add_release, replace_qemu)),
        *((plant, "--verbose") for plant in (rename_root, add_kernel, add_release)),
    ],
)
def test_commands_have_no_name_as_it_is(
    machine: Machine, tmp_path: Path, plant: Callable[[Machine], Machine], action: str
) -> None:
    words = [action, "--timeout=20", *words_of(plant(machine)), "/bin/sh"]
    done = run("chrootvm", tmp_path, *words)
    check_printed(done.stdout, done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        *(
            [f"{option}={HOSTILE}"]
            for option in (
                "--accel",
                "--arch",
                "--cpus",
                "--disk",
                "--gdb",
                "--kernel",
                "--memory",
                "--module",
                "--modules",
                "--name",
                "--publish",
                "--qemu",
                "--timeout",
                "--virtiofsd",
                "--warm",
            )
        ),
        [f"--{HOSTILE}"],
        [f"--mount={HOSTILE}:y"],
        [f"--mount=y:/{HOSTILE}"],
        [f"--env=={HOSTILE}"],
        [f'--append="{HOSTILE}'],
        [f"--overlay=/nowhere/{HOSTILE}"],
        [f"--report=/nowhere/{HOSTILE}"],
        [f"--init={HOSTILE}"],
        [f"--in={HOSTILE}", "--", "true"],
        [f"--in=x{FORGED}", HOSTILE],
        [f"--stop={HOSTILE}"],
        ["--list", HOSTILE],
    ],
    ids=repr,
)
def test_refused_option_is_not_printed_as_it_is(
    machine: Machine, tmp_path: Path, words: list[str]
) -> None:
    rest = words_of(machine) if words[0].split("=")[0] not in ("--in", "--stop", "--list") else []
    rest = [*rest[:-1], *words, *rest[-1:], *(["--", "true"] if rest else [])]
    done = run("chrootvm", tmp_path, *(rest or words))
    assert done.returncode == 125
    check_printed(done.stdout, done.stderr)


def test_directory_of_an_unsafe_cache_is_not_printed_as_it_is(
    machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path / HOSTILE / "initrd"
    path.mkdir(parents=True)
    path.chmod(0o777)
    done = run("chrootvm", tmp_path, "--dry-run", *words_of(machine), cache=str(path.parent))
    assert done.returncode == 0
    check_printed(done.stderr)


@pytest.mark.parametrize("options", [[], ["--verbose"]], ids=["", "verbose"])
def test_output_of_a_program_that_fails_is_not_printed_as_it_is(
    machine: Machine, tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "text").write_bytes(HOSTILE_LINE.encode(errors="surrogateescape"))
    script = f"{HELP_OF_VIRTIOFSD}\ncat {tmp_path}/text >&2; exit 1"
    machine = machine.replace(virtiofsd=write_program(tmp_path / "virtiofsd", script))
    write_program(Path(machine.qemu), f"[ $# -gt 5 ] && exec sleep 30\n{QEMU}")
    done = run("chrootvm", tmp_path, *options, *words_of(machine), "/bin/sh")
    assert done.returncode == 125
    check_printed(done.stdout, done.stderr)


def test_list_has_no_name_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    row = {"name": HOSTILE, "state": HOSTILE, "kernel": HOSTILE, "root": HOSTILE}
    rows = [{**row, "since": 0.0, "commands": []}]
    monkeypatch.setattr(named, "list_machines", lambda _: [dict(row) for row in rows])
    for options in (["--list"], ["--list", "--json"]):
        assert named.run_named_action(parse(options), Deadline(None)) == 0
        printed = capfdbinary.readouterr().out
        check_printed(printed)
    assert json.loads(printed)[0]["root"] == HOSTILE


def explain_failed_boot(text: str) -> str:
    return str(console.explain_boot_failure(f"{text}\ntry: {text}\n{text}", 1 << 30, text))


def explain_panic(text: str) -> str:
    panic = console.find_panic(f"Oops {text}\nKernel panic - not syncing: {text}\n", 1 << 30)
    assert panic
    return str(panic).replace(f"\n{FORGED}", f"\n {FORGED}")  # a report has lines of the guest


@pytest.mark.parametrize(
    "explain",
    [
        explain_failed_boot,
        explain_panic,
        lambda text: str(console.explain_refusal(f"no user {text}: {text}")),
        lambda text: str(HostError(text, text, text)),
        lambda text: str(CommandFailed(1, [text], "", text)).replace(f"\n{FORGED}", f"\n {FORGED}"),
    ],
    ids=["boot", "panic", "refusal", "error", "command"],
)
def test_error_about_a_guest_has_no_text_of_it_as_it_is(explain: Callable[[str], str]) -> None:
    check_printed(explain(HOSTILE).encode())


def test_warning_of_a_guest_is_one_line(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with closing(MessageWriter()) as messages:
        GuestWarnings(messages.print_message).add(HOSTILE.replace("\n", "\\n"))
        messages.print_error(HostError(HOSTILE, HOSTILE, HOSTILE))
    printed = capfdbinary.readouterr().err
    check_printed(printed)
    assert printed.count(b"\n") == 3  # the warning, the error, what to try


def test_error_before_a_program_starts_keeps_its_parts() -> None:
    def fail() -> None:
        raise HostError(HOSTILE, "why", "hint")

    with pytest.raises(HostError) as raised:
        Process(Program(("true",), before=fail), 2)
    assert (raised.value.why, raised.value.hint) == (f"{HOSTILE}: why", "hint")
    check_printed(str(raised.value).encode())


@pytest.mark.parametrize("file", ["report.json", "report.svg"])
def test_report_has_no_name_as_it_is(file: str) -> None:
    names = ("kernel", "accelerator", "qemu", "root")
    report = render(file, dict.fromkeys(names, HOSTILE), [Phase(HOSTILE, "init", 0.0, 1.0)])
    check_printed(report)
    if file.endswith(".json"):
        assert json.loads(report)["about"]["root"] == HOSTILE


@pytest.fixture
def operands(tmp_path: Path) -> list[str]:
    (tmp_path / "init").write_bytes(b"\x7fELF program")
    return [f"{tmp_path}/init", write_tree(tmp_path / "modules", REQUIRED), f"{tmp_path}/image"]


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        pytest.param([], {0: HOSTILE}, id="INIT"),
        pytest.param([], {1: HOSTILE}, id="MODULES_DIR"),
        pytest.param([], {2: f"/nowhere/{HOSTILE}"}, id="OUTPUT"),
        pytest.param(["--module", HOSTILE], {}, id="module"),
        pytest.param(["--cmdline", f"rootfstype=x\x1b[2J{FORGED}"], {}, id="cmdline"),
        pytest.param(["--compress", HOSTILE], {}, id="choice"),
        pytest.param([f"--{HOSTILE}"], {}, id="unknown option"),
    ],
)
def test_error_of_mkvirtinitrd_has_no_name_as_it_is(
    operands: list[str], tmp_path: Path, options: list[str], changed: dict[int, str]
) -> None:
    words = [changed.get(index, operand) for index, operand in enumerate(operands)]
    done = run("mkvirtinitrd", tmp_path, *options, *words)
    assert done.returncode in (1, 2)
    check_printed(done.stdout, done.stderr)


def test_list_of_an_image_has_no_name_as_it_is(tmp_path: Path) -> None:
    name = HOSTILE.encode(errors="surrogateescape")
    image = tmp_path / HOSTILE
    image.write_bytes(pack([Entry(name, 0o100644, b""), Entry(b"link", 0o120777, name)]))
    done = run("mkvirtinitrd", tmp_path, "--list", str(image))
    assert done.returncode == 0
    check_printed(done.stdout)
    image.write_bytes(b"damaged")
    check_printed(run("mkvirtinitrd", tmp_path, "--list", str(image)).stderr)


@pytest.mark.parametrize("program", ["mkvirtinitrd", "chrootvm"])
def test_message_with_a_name_of_megabytes_is_short(program: str, tmp_path: Path) -> None:
    """A module depends on one whose name is as long as the list of modules may be."""
    builtin = ("virtio_console.ko",)
    directory = write_tree(tmp_path / "root/usr/lib/modules/6.1", REQUIRED, builtin=builtin)
    with open(f"{directory}/modules.dep", "a") as file:
        file.write("kernel/long.ko: " + "\x1b" * (8 << 20) + "\n")
    Path(directory, "vmlinuz").touch()
    (tmp_path / "init").write_bytes(b"\x7fELF")
    words = {
        "mkvirtinitrd": ["--module=long", f"{tmp_path}/init", directory, f"{tmp_path}/image"],
        "chrootvm": ["--doctor", "--module=long", f"--init={tmp_path}/init", f"{tmp_path}/root"],
    }
    done = run(program, tmp_path, *words[program])
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert rb"module \x1b\x1b" in output
    assert len(output) < 100_000
