"""Documents agree with the code: the tables of options, and paths and names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd import cmdline, options
from initrd.host.machine.cli import OPTIONS
from tests.boot.differences import DIFFERENCES
from tests.fuzz.targets import TARGETS
from tests.guest.faults import CASES
from tests.soak.checks import KINDS

TOP = Path(__file__).parent.parent
OPTIONS_WITHOUT_README_ROW = {"--help", "--version"}


def read_document(name: str) -> str:
    return (TOP / name).read_text(encoding="utf-8").replace("\\-", "-")


def section(text: str, begin: str, end: str) -> str:
    return text.partition(begin)[2].partition(end)[0]


def string_constants(node: ast.AST) -> Iterator[str]:
    for found in ast.walk(node):
        if isinstance(found, ast.Constant) and isinstance(found.value, str):
            yield found.value


def kernel_options() -> set[str]:
    """Return the options that initrd.cmdline parses: those of its tables, and those in its code."""
    names = {entry[0] for entry in (*cmdline.OPTIONS, *cmdline.LISTS)}
    for node in ast.walk(ast.parse(read_document("initrd/cmdline.py"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".is_flag"):
            names.update(name for part in node.args for name in string_constants(part))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "last.get":
            names.update(string_constants(node.args[0]))
        if isinstance(node, ast.Compare) and ast.unparse(node.left).endswith(".key"):
            names.update(name for part in node.comparators for name in string_constants(part))
    return {name.replace("_", "-") for name in names if name not in ("--", "")}


def canonical(names: list[str]) -> set[str]:
    """Return names with dashes, without the placeholder for module parameters."""
    return {name.replace("_", "-") for name in names} - {"MODULE.PARAM"}


def test_readme_has_every_kernel_option_and_no_other() -> None:
    table = section(read_document("README.md"), "\n## Kernel command line\n", "\n## ")
    first_column = " ".join(re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE))
    assert canonical(re.findall(r"([a-zA-Z_.-]+)(?==|`|$)[^`]*`", first_column)) >= kernel_options()
    assert canonical(re.findall(r"`([a-zA-Z_.-]+)", first_column)) <= kernel_options()


def test_manual_of_init_has_every_kernel_option() -> None:
    text = section(read_document("man/initrd.8"), ".SH KERNEL COMMAND LINE", ".SH EXIT")
    names = re.findall(r"^\.(?:BI?|BR) ([a-z][a-z_.-]*)=?", text, re.MULTILINE)
    names += re.findall(r'^\.BI .*"[ ]([a-z]+)=', text, re.MULTILINE)
    names += ["rw"] if '.BR ro ", " rw' in text else []
    assert canonical(names) >= kernel_options()


def test_kernel_options_in_the_environment_are_removed_for_the_target() -> None:
    variables = {name for name in kernel_options() if "." not in name}
    kernel_parameters = {
        "debug",
        "root",
        "init",
        "ro",
        "rw",
    }  # the kernel does not pass these to init
    assert variables - kernel_parameters == {
        word.replace("_", "-") for word in options.ENVIRONMENT_WORDS
    }


def chrootvm_options() -> set[str]:
    return {option.name for option in OPTIONS}


def test_readme_has_every_option_of_chrootvm() -> None:
    text = section(read_document("README.md"), "\n### chrootvm\n", "\n### ")
    rows = "\n".join(re.findall(r"^\| (`.*?) \| ", text.replace("\\|", "/"), re.MULTILINE))
    assert set(re.findall(r"`(--[a-z-]+)", rows)) == chrootvm_options() - OPTIONS_WITHOUT_README_ROW


def test_manual_of_chrootvm_has_every_option() -> None:
    text = section(read_document("man/chrootvm.1"), ".SH OPTIONS", ".SH EXIT")
    assert set(re.findall(r"^\.(?:BI?|BR) (--[a-z-]+)", text, re.MULTILINE)) == chrootvm_options()


@pytest.mark.parametrize("name", ["architecture", "reliability"])
def test_document_names_existing_paths(name: str) -> None:
    text = read_document(f"docs/{name}.md")
    paths = {
        path for path in re.findall(r"`([a-z_./]+)`", text) if re.search(r"\.(py|c|md)$", path)
    }
    assert paths
    assert [path for path in sorted(paths) if not exists_in_project(path)] == []


def test_reliability_has_every_target_of_fuzzing_and_every_boot_with_faults() -> None:
    text = read_document("docs/reliability.md")
    names = re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)
    assert {*TARGETS, *CASES, *KINDS} - set(names) == set()


def exists_in_project(path: str) -> bool:
    return (TOP / path).is_file() or (TOP / "initrd" / path).is_file()


def test_warm_start_document_has_every_difference_that_a_boot_test_allows() -> None:
    table = section(read_document("docs/warm-start.md"), "\n## Differences\n", "\n## ")
    rows = re.findall(r"^\| (.*) \| (.*) \|$", table, re.MULTILINE)[2:]
    assert rows == [(entry.what, entry.reason) for entry in DIFFERENCES]


def test_manual_of_mkvirtinitrd_names_init_where_make_install_puts_it() -> None:
    makefile = read_document("Makefile")
    variables = dict(re.findall(r"^(\w+) [?:]= (\S+)$", makefile, re.MULTILINE))
    path = variables["INIT"].replace("$(DESTDIR)", "").replace("$(LIBDIR)", variables["LIBDIR"])
    path = path.replace("$(PREFIX)", variables["PREFIX"])
    text = read_document("man/mkvirtinitrd.8")
    assert f"such as\n.I {path}\n" in text
    assert section(text, ".SH EXAMPLES", ".SH SEE ALSO").count(path) == 2


def test_manual_of_mkvirtinitrd_has_every_option_of_the_command_line_that_needs_modules() -> None:
    explained = section(
        read_document("man/mkvirtinitrd.8"), '\n.BI --cmdline " TEXT"', "\n.B --overlay"
    )
    words = ("root=", "overlay_root=", "initrd.union=unionfs-fuse", "initrd.bundle=", "ip=", "hvc0")
    assert [word for word in words if word not in explained] == []
