"""Draw the phases of a boot as an SVG document: a row with a bar for each, along a time axis.

Source: SVG 1.1, which every browser displays.
"""

from html import escape

from initrd.host.report.timeline import Phase
from initrd.host.system.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_COLOURS = {"host": "#7a8ba6", "kernel": "#d98c3f", "init": "#3f8f6b", "command": "#5b6fb5"}
_KIND_NAMES = {
    "host": "this machine",
    "kernel": "QEMU, kernel",
    "init": "/init",
    "command": "command",
}
_DARK, _GREY = "#101828", "#667085"
_NAME_WIDTH, _AXIS_WIDTH, _VALUE_WIDTH = 400, 640, 90  # pixels, from left to right
_WIDTH = _NAME_WIDTH + _AXIS_WIDTH + _VALUE_WIDTH
_HEADER_HEIGHT, _ROW_HEIGHT, _FOOTER_HEIGHT = 96, 20, 40  # pixels
_NAME_LENGTH = 58  # characters; a longer name is cut
_FONT = "font-family='system-ui, sans-serif' font-size='12'"
_ROUND_DIGITS = (1, 2, 5)


def draw(title: str, subtitle: str, phases: "Sequence[Phase]") -> str:
    """Return the SVG document."""
    total = max((phase.end for phase in phases), default=0.0) or 1.0
    height = _HEADER_HEIGHT + _ROW_HEIGHT * len(phases) + _FOOTER_HEIGHT
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' "
        f"width='{_WIDTH}' height='{height}' {_FONT}>",
        f"<rect width='{_WIDTH}' height='{height}' fill='#ffffff'/>",
        _text(16, 28, title, font_size="17", font_weight="600"),
        _text(16, 48, subtitle, fill=_GREY),
        *_legend(phases),
        *_grid(total, height),
        *(line for row, phase in enumerate(phases) for line in _bar(row, phase, total)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bar(row: int, phase: Phase, total: float) -> "Iterator[str]":
    """Yield one row: the phase's name, its bar, and its length in milliseconds."""
    y = _HEADER_HEIGHT + _ROW_HEIGHT * row
    x = _NAME_WIDTH + phase.start / total * _AXIS_WIDTH
    width = max(phase.length / total * _AXIS_WIDTH, 1.0)
    tooltip = f"{phase.name}: {phase.length:.1f} ms, from {phase.start:.1f} ms on"
    yield f"<g><title>{_escape(tooltip)}</title>"
    if row % 2 == 0:
        yield (
            f"<rect x='0' y='{y}' width='{_WIDTH}' "
            f"height='{_ROW_HEIGHT}' fill='{_DARK}' fill-opacity='0.025'/>"
        )
    yield _text(_NAME_WIDTH - 10, y + 14, _shorten(phase.name), text_anchor="end")
    yield (
        f"<rect x='{x:.1f}' y='{y + 4}' width='{width:.1f}' height='{_ROW_HEIGHT - 8}' rx='2' "
        f"fill='{_COLOURS[phase.kind]}'/>"
    )
    yield _text(x + width + 6, y + 14, f"{phase.length:.1f}", fill=_GREY)
    yield "</g>"


def _grid(total: float, height: int) -> "Iterator[str]":
    """Yield the lines of the time axis, in milliseconds."""
    step = _grid_step(total)
    for number in range(int(total / step) + 1):
        x = _NAME_WIDTH + number * step / total * _AXIS_WIDTH
        top, bottom = _HEADER_HEIGHT - 4, height - _FOOTER_HEIGHT
        yield f"<path d='M{x:.1f} {top}V{bottom + 4}' stroke='{_DARK}' stroke-opacity='0.1'/>"
        yield _text(x, bottom + 20, f"{number * step:g} ms", text_anchor="middle", fill=_GREY)


def _grid_step(total: float) -> float:
    """Return the round number of milliseconds between two grid lines: at most eight fit."""
    power = 1.0
    while True:
        for digit in _ROUND_DIGITS:
            if total / (digit * power) <= 8:
                return digit * power
        power *= 10


def _legend(phases: "Sequence[Phase]") -> "Iterator[str]":
    """Yield the colour of each kind of phase, its name, and its total time."""
    x = 16
    for kind, name in _KIND_NAMES.items():
        length = sum(phase.length for phase in phases if phase.kind == kind)
        text = f"{name} {length:.0f} ms"
        yield f"<rect x='{x}' y='64' width='11' height='11' rx='2' fill='{_COLOURS[kind]}'/>"
        yield _text(x + 17, 74, text)
        x += 17 + 8 * len(text) + 18


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _escape(text: str) -> str:
    """Return a text as XML, which cannot hold control characters, not even escaped as `&#27;`."""
    return escape(printable(text))


def _text(x: float, y: float, text: str, **attributes: str) -> str:
    values = {"text_anchor": "start", "fill": _DARK} | attributes
    written = " ".join(f"{name.replace('_', '-')}='{value}'" for name, value in values.items())
    return f"<text x='{x:.1f}' y='{y:.1f}' {written}>{_escape(text)}</text>"
