"""README and manual pages say what the code understands: all of it, and nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from initrd import cmdline, options
from initrd.host.machine.cli import OPTIONS

TOP = Path(__file__).parent.parent
NOT_IN_TABLE = {"--help", "--version"}


def read(name: str) -> str:
    return (TOP / name).read_text(encoding="utf-8").replace("\\-", "-")


def section(page: str, begin: str, end: str) -> str:
    return page.partition(begin)[2].partition(end)[0]


def constants(node: ast.AST) -> Iterator[str]:
    for found in ast.walk(node):
        if isinstance(found, ast.Constant) and isinstance(found.value, str):
            yield found.value


def kernel_options() -> set[str]:
    """Return the names that initrd.cmdline understands: those of its tables, and in its code."""
    names = {entry[0] for entry in (*cmdline.OPTIONS, *cmdline.LISTS)}
    for node in ast.walk(ast.parse(read("initrd/cmdline.py"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".is_flag"):
            names.update(name for part in node.args for name in constants(part))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "last.get":
            names.update(constants(node.args[0]))
        if isinstance(node, ast.Compare) and ast.unparse(node.left).endswith(".key"):
            names.update(name for part in node.comparators for name in constants(part))
    return {name.replace("_", "-") for name in names if name not in ("--", "")}


def canonical(names: list[str]) -> set[str]:
    return {name.replace("_", "-") for name in names} - {"MODULE.PARAM"}


def test_the_readme_explains_every_kernel_option() -> None:
    table = section(read("README.md"), "\n## Kernel command line\n", "\n## ")
    first_column = " ".join(re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE))
    assert canonical(re.findall(r"([a-zA-Z_.-]+)(?==|`|$)[^`]*`", first_column)) >= kernel_options()
    assert canonical(re.findall(r"`([a-zA-Z_.-]+)", first_column)) <= kernel_options()


def test_the_manual_explains_every_kernel_option() -> None:
    text = section(read("man/initrd.8"), ".SH KERNEL COMMAND LINE", ".SH EXIT")
    names = re.findall(r"^\.(?:BI?|BR) ([a-z][a-z_.-]*)=?", text, re.MULTILINE)
    names += re.findall(r'^\.BI .*"[ ]([a-z]+)=', text, re.MULTILINE)
    names += ["rw"] if '.BR ro ", " rw' in text else []
    assert canonical(names) >= kernel_options()


def test_every_kernel_option_that_becomes_a_variable_is_kept_from_the_target() -> None:
    variables = {name for name in kernel_options() if "." not in name}
    kernels_own = {"debug", "root", "init", "ro", "rw"}
    assert variables - kernels_own == {word.replace("_", "-") for word in options.ENVIRONMENT_WORDS}


def chrootvm_options() -> set[str]:
    return {option.name for option in OPTIONS}


def test_the_readme_explains_every_option_of_chrootvm() -> None:
    text = section(read("README.md"), "\n### chrootvm\n", "\n### ")
    rows = "\n".join(re.findall(r"^\| (`.*?) \| ", text.replace("\\|", "/"), re.MULTILINE))
    assert set(re.findall(r"`(--[a-z-]+)", rows)) == chrootvm_options() - NOT_IN_TABLE


def test_the_manual_explains_every_option_of_chrootvm() -> None:
    text = section(read("man/chrootvm.1"), ".SH OPTIONS", ".SH EXIT")
    assert set(re.findall(r"^\.(?:BI?|BR) (--[a-z-]+)", text, re.MULTILINE)) == chrootvm_options()
