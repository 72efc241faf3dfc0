"""The changes of a source file: of an operator, constant, condition, call or statement."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_NO_VALUES = ("None", "True", "False", "''", "b''")


@dataclass(frozen=True)
class Mutation:
    """A change of one piece of a file."""

    line: int
    start: int  # bytes
    end: int
    before: str
    after: str

    def apply(self, source: bytes) -> bytes:
        """Return the changed source."""
        return source[: self.start] + self.after.encode() + source[self.end :]

    def describe(self) -> str:
        """Return the change as one line."""
        return f"{_shorten(self.before)}  ->  {_shorten(self.after)}"


def find_mutations(source: bytes) -> list[Mutation]:
    """Return all changes of a source file, in its order."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, after in _walk(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        found.append(Mutation(node.lineno, start, end, source[start:end].decode(), after))
    return sorted(found, key=lambda mutation: (mutation.start, mutation.end, mutation.after))


def _walk(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield the nodes below `node` that can be changed, and what replaces each."""
    if isinstance(node, ast.JoinedStr) or _is_for_types(node):
        return
    if isinstance(node, ast.expr):
        for after in _change_expression(node):
            yield node, f"({after})"
    elif isinstance(node, ast.stmt):
        yield from ((node, after) for after in _change_statement(node))
    test = getattr(node, "test", None)
    if isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(test, ast.expr):
        yield test, f"(not ({ast.unparse(test)}))"
    for child in _children(node):
        yield from _walk(child)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the children of a node that are no annotation, decorator or docstring."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "ctx"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_docstring(child):
                yield child


def _is_for_types(node: ast.AST) -> bool:
    """Return whether a statement is for the type checker, or for a start as a script."""
    return isinstance(node, ast.If | ast.Assign) and any(
        isinstance(part, ast.Name) and part.id in ("TYPE_CHECKING", "__name__")
        for part in ast.walk(node.test if isinstance(node, ast.If) else node)
    )


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _change_expression(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        operator = _OPERATORS[type(node.ops[0])]()
        yield ast.unparse(ast.Compare(node.left, [operator], node.comparators))  # type: ignore[list-item]
    elif isinstance(node, ast.BoolOp):
        yield ast.unparse(ast.BoolOp(_OPERATORS[type(node.op)](), node.values))  # type: ignore[arg-type]
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        operator = _OPERATORS[type(node.op)]()
        yield ast.unparse(ast.BinOp(node.left, operator, node.right))  # type: ignore[arg-type]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield ast.unparse(node.operand)
    elif isinstance(node, ast.Constant):
        yield from _change_constant(node.value)
    elif isinstance(node, ast.Call):
        yield from _swap_arguments(node)


def _change_constant(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield repr(not value)
    elif isinstance(value, int | float):
        yield repr(value + 1)
    elif isinstance(value, str) and re.search(r"\d", value):
        yield repr(re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), value, count=1))
    elif isinstance(value, bytes) and value:
        yield repr(value + b"X")
    elif isinstance(value, str) and value and " " not in value:  # others are texts for people
        yield repr(f"{value}X")


def _swap_arguments(node: ast.Call) -> Iterator[str]:
    values = node.args
    if len(values) < 2 or ast.dump(values[0]) == ast.dump(values[1]):
        return
    if not any(isinstance(value, ast.Starred) for value in values[:2]):
        swapped = ast.Call(node.func, [values[1], values[0], *values[2:]], node.keywords)
        yield ast.unparse(swapped)


def _change_statement(node: ast.stmt) -> Iterator[str]:
    """Yield what replaces a statement: nothing, or a return of another value."""
    if isinstance(node, ast.Return) and node.value and ast.unparse(node.value) not in _NO_VALUES:
        yield "return None"
    elif isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete) or _sets_state(node):
        yield "pass"
    elif isinstance(node, ast.Break):
        yield "continue"
    elif isinstance(node, ast.Continue):
        yield "break"


def _sets_state(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else f"{line[:67]}..."
