"""Line plots as inline SVG: no script, no font, no library, so that a page stands alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 16, 44
COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4b5563")


@dataclass(frozen=True, slots=True)
class Line:
    """A named series of points, in rising x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a plot."""

    title: str
    ticks: Sequence[tuple[float, str]] = ()
    """Position and text; worked out from the data when empty."""
    logarithmic: bool = False


def plot(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """One figure; empty when there is nothing to draw."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    x_scale = _Scale(x, [px for px, _ in points], LEFT, WIDTH - RIGHT)
    y_scale = _Scale(y, [py for _, py in points], HEIGHT - BOTTOM, TOP)
    parts = [
        f"<figure><figcaption>{escape(title)}</figcaption>",
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_grid(x_scale, y_scale),
    ]
    for number, line in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        path = " ".join(f"{x_scale(px):.1f},{y_scale(py):.1f}" for px, py in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x_scale(px):.1f}" cy="{y_scale(py):.1f}" r="2.5" fill="{color}">'
            f"<title>{escape(line.name)}: {py:,.3g}</title></circle>"
            for px, py in line.points
        ]
        at = TOP + 14 + 18 * number
        parts.append(
            f'<text x="{WIDTH - RIGHT + 12}" y="{at}" style="fill:{color}">'
            f"{escape(line.name)}</text>"
        )
    return "".join([*parts, "</svg></figure>"])


class _Scale:
    """Values to pixels."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        self.axis, self.start, self.end = axis, start, end
        positive = [value for value in values if value > 0]
        if axis.logarithmic:
            self.low = 10 ** math.floor(math.log10(min(positive, default=1)))
            self.high = 10 ** math.ceil(math.log10(max(positive, default=10)) + 1e-9)
            self.high = max(self.high, self.low * 10)
        else:
            self.low = min(0.0, *values) if not axis.ticks else min(t for t, _ in axis.ticks)
            top = max(values) if not axis.ticks else max(t for t, _ in axis.ticks)
            self.high = top if top > self.low else self.low + 1

    def __call__(self, value: float) -> float:
        if self.axis.logarithmic:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> Sequence[tuple[float, str]]:
        if self.axis.ticks:
            return self.axis.ticks
        if self.axis.logarithmic:
            decades = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
            return [(10.0**decade, f"{10.0**decade:g}") for decade in decades]
        step = 10 ** math.floor(math.log10((self.high - self.low) or 1))
        for factor in (0.2, 0.5, 1, 2):
            if (self.high - self.low) / (step * factor) <= 6:
                step *= factor
                break
        first = math.ceil(self.low / step)
        last = math.floor(self.high / step)
        return [(n * step, f"{n * step:g}") for n in range(first, last + 1)]


def _grid(x: _Scale, y: _Scale) -> list[str]:
    parts = []
    for value, text in y.ticks():
        at = y(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        )
    for value, text in x.ticks():
        at = x(value)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{escape(text)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.axis.title)}</text>'
    )
    parts.append(f'<text x="6" y="{TOP - 4}">{escape(y.axis.title)}</text>')
    return parts
