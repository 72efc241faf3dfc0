"""Frozen records, for programs that must start fast.

`dataclasses` imports `inspect`, `re` and other modules, which takes longer than all the other work
of `/init`. This module has the small part of `dataclasses` that the project uses: typed fields,
defaults, equality, a readable `repr`, no assignment after construction.
"""

TYPE_CHECKING = False  # same as `typing.TYPE_CHECKING`, without importing `typing`
if TYPE_CHECKING:
    from typing import Any, NoReturn, Self, dataclass_transform
else:

    def dataclass_transform(**_):
        """Do nothing: only type checkers use this decorator."""
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class Record:
    """Base of immutable value types: annotate the fields in the class body, then construct.

    >>> class Share(Record):
    ...     tag: str
    ...     writable: bool = False
    >>> Share("data")
    Share(tag='data', writable=False)
    """

    _fields: "tuple[str, ...]" = ()

    def __init_subclass__(cls) -> None:
        """Collect the fields: first those of the parent, then those annotated in this class."""
        own = (name for name in cls.__annotations__ if name not in cls._fields)
        cls._fields = (*cls._fields, *own)

    def __init__(self, *args: "Any", **kwargs: "Any") -> None:
        fields = self._fields
        values = dict(zip(fields, args, strict=False))
        if kwargs or len(args) != len(fields):
            self._add_keywords(values, len(args), kwargs)
        self.__dict__.update(values)

    def _add_keywords(self, values: "dict[str, Any]", count: int, kwargs: "dict[str, Any]") -> None:
        """Add the keyword arguments to the `count` positional ones. Raises TypeError."""
        cls = type(self)
        if count > len(cls._fields):
            raise TypeError(f"{cls.__name__} takes {len(cls._fields)} fields, got {count}")
        for name, value in kwargs.items():
            if name not in cls._fields or name in values:
                raise TypeError(f"{cls.__name__}: unexpected or repeated field {name!r}")
            values[name] = value
        for name in cls._fields:
            if name not in values and not hasattr(cls, name):
                raise TypeError(f"{cls.__name__}: missing field {name!r}")

    def __setattr__(self, name: str, value: object) -> "NoReturn":
        raise AttributeError(f"{type(self).__name__} is frozen: cannot set {name!r}")

    def replace(self, **changes: "Any") -> "Self":
        """Return a copy with some fields changed."""
        return type(self)(**{**self._values(), **changes})

    def _values(self) -> "dict[str, Any]":
        return {name: getattr(self, name) for name in self._fields}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values().values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._values().items())
        return f"{type(self).__name__}({fields})"
