"""Draws the phases of a boot: a bar for each, one below the other, along the time. Pure.

Source: SVG 1.1, which every browser draws.
"""

from html import escape

from initrd.host.report.timeline import Phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_COLOURS = {"host": "#7a8ba6", "kernel": "#d98c3f", "init": "#3f8f6b", "command": "#5b6fb5"}
_NAMES = {
    "host": "this machine",
    "kernel": "QEMU, kernel",
    "init": "/init",
    "command": "command",
}
_INK, _PALE = "#101828", "#667085"
_NAME_WIDTH, _WIDTH, _VALUE_WIDTH = 400, 640, 90  # pixels
_ROW, _TOP, _BOTTOM, _LONGEST = 20, 96, 40, 58  # pixels; characters of a name
_FONT = "font-family='system-ui, sans-serif' font-size='12'"
_STEPS = (1, 2, 5)


def draw(title: str, subtitle: str, phases: "Sequence[Phase]") -> str:
    """Return the picture as an SVG document."""
    total = max((phase.end for phase in phases), default=0.0) or 1.0
    width = _NAME_WIDTH + _WIDTH + _VALUE_WIDTH
    height = _TOP + _ROW * len(phases) + _BOTTOM
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
        f"width='{width}' height='{height}' {_FONT}>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        _text(16, 28, title, font_size="17", font_weight="600"),
        _text(16, 48, subtitle, fill=_PALE),
        *_legend(phases),
        *_grid(total, height),
        *(line for row, phase in enumerate(phases) for line in _bar(row, phase, total)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bar(row: int, phase: Phase, total: float) -> "Iterator[str]":
    y = _TOP + _ROW * row
    x = _NAME_WIDTH + phase.start / total * _WIDTH
    width = max(phase.length / total * _WIDTH, 1.0)
    whole = f"{phase.name}: {phase.length:.1f} ms, from {phase.start:.1f} ms on"
    yield f"<g><title>{escape(whole)}</title>"
    if row % 2 == 0:
        yield (
            f"<rect x='0' y='{y}' width='{_NAME_WIDTH + _WIDTH + _VALUE_WIDTH}' "
            f"height='{_ROW}' fill='{_INK}' fill-opacity='0.025'/>"
        )
    yield _text(_NAME_WIDTH - 10, y + 14, _shortened(phase.name), text_anchor="end")
    yield (
        f"<rect x='{x:.1f}' y='{y + 4}' width='{width:.1f}' height='{_ROW - 8}' rx='2' "
        f"fill='{_COLOURS[phase.kind]}'/>"
    )
    yield _text(x + width + 6, y + 14, f"{phase.length:.1f}", fill=_PALE)
    yield "</g>"


def _grid(total: float, height: int) -> "Iterator[str]":
    """Yield the lines of the time axis, in milliseconds."""
    step = _step(total)
    for number in range(int(total / step) + 1):
        x = _NAME_WIDTH + number * step / total * _WIDTH
        bottom = height - _BOTTOM
        yield f"<path d='M{x:.1f} {_TOP - 4}V{bottom + 4}' stroke='{_INK}' stroke-opacity='0.1'/>"
        yield _text(x, bottom + 20, f"{number * step:g} ms", text_anchor="middle", fill=_PALE)


def _step(total: float) -> float:
    """Return a round distance of which some five to ten fit into `total`."""
    power = 1.0
    while True:
        for digit in _STEPS:
            if total / (digit * power) <= 8:
                return digit * power
        power *= 10


def _legend(phases: "Sequence[Phase]") -> "Iterator[str]":
    """Yield what the colours mean, and how long each kind took."""
    x = 16
    for kind, name in _NAMES.items():
        length = sum(phase.length for phase in phases if phase.kind == kind)
        text = f"{name} {length:.0f} ms"
        yield f"<rect x='{x}' y='64' width='11' height='11' rx='2' fill='{_COLOURS[kind]}'/>"
        yield _text(x + 17, 74, text)
        x += 17 + 8 * len(text) + 18


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _text(x: float, y: float, text: str, **attributes: str) -> str:
    chosen = {"text_anchor": "start", "fill": _INK} | attributes
    words = " ".join(f"{name.replace('_', '-')}='{value}'" for name, value in chosen.items())
    return f"<text x='{x:.1f}' y='{y:.1f}' {words}>{escape(text)}</text>"
