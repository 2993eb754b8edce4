"""Geometry of the forget-quality against model-utility plot: where points, ticks and labels go. Numbers only; the
template draws.

x is model utility, the part of 0 to 1 where the models are; y is log10 of forget quality, from at most LOWEST up to 0.
All lengths are SVG user units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tu_eval.compare.intervals import Bounds

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 24, 56
LOWEST = -20.0
"""log10 p: lower values are drawn here, and their labels say so"""
SHALLOWEST = -3.0
"""the axis reaches at least this far down, so that 0.05 has a place"""
TOLD_APART = 0.05
MARK = 7.0
"""half the size of a marker"""
CHAR, LINE = 7.1, 15.0
"""generous width of a character and height of a line of labels at 13 px"""
LONGEST = 36
"""characters of a label"""
SHAPES = ("circle", "square", "up", "diamond", "down", "plus", "cross", "star")

Box = tuple[float, float, float, float]
"""left, top, right, bottom"""


Whiskers = tuple[Bounds | None, Bounds | None]
"""x of the ends of the one across, y of those of the one down"""


@dataclass(frozen=True)
class Point:
    index: int
    """of the result: marker shape and colour follow from it"""
    label: str
    """shortened where it is long"""
    x: float
    y: float
    text_x: float
    text_y: float
    anchor: str
    """start, middle or end: how the text sits on (text_x, text_y), its baseline"""
    leader: bool
    """the label is so far off that a thin line must join it to its point"""
    across: tuple[float, float] | None = None
    down: tuple[float, float] | None = None
    """ends of the whiskers: x of model utility's interval, y of forget quality's"""


@dataclass(frozen=True)
class Plot:
    points: list[Point] = field(default_factory=list)
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    """(position, text)"""
    told_apart_y: float = 0.0


def layout(values: Sequence[tuple[int, str, float, float]], spans: Mapping[int, tuple[Bounds | None, Bounds | None]] | None = None) -> Plot:
    """`values`: (index, label, model utility, forget quality), not empty. `spans`: intervals of the two by index."""
    logs = [max(math.log10(q), LOWEST) if q > 0 else LOWEST for *_, q in values]
    low = max(LOWEST, min(SHALLOWEST, math.floor(min(logs))))
    step = next(s for s in (1, 2, 5) if -low / s <= 6)
    low = -step * math.ceil(-low / step)
    held = [v for i, _, u, _ in values for v in (u, *((spans or {}).get(i, (None, None))[0] or ()))]
    axis, ticks = share_axis(held)
    x_ticks = [(_x(t, axis), text) for t, text in ticks]
    y_ticks = [(_y(-k * step, low), "1" if k == 0 else f"10^{-k * step}") for k in range(round(-low / step) + 1)]
    at = [(_x(u, axis), _y(log, low)) for (_, _, u, _), log in zip(values, logs, strict=True)]
    names = [short(label) if q >= 10**LOWEST else f"{short(label)} (p < 1e{LOWEST:.0f})" for _, label, _, q in values]
    ends = {i: _whiskers(*(spans or {}).get(i, (None, None)), low, axis) for i, *_ in values}
    points = [replace(p, across=ends[p.index][0], down=ends[p.index][1]) for p in labelled([v[0] for v in values], names, at, ends)]
    return Plot(points, x_ticks, y_ticks, _y(math.log10(TOLD_APART), low))


def short(label: str) -> str:
    """A label that fits into the plot, without its middle: names of models differ at both ends."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST // 2]}…{label[1 - LONGEST // 2 :]}"


def share_axis(held: Sequence[float]) -> tuple[Bounds, list[tuple[float, str]]]:
    """-> ends of the axis, within 0 to 1 and around all of `held`, and its ticks with their texts: as fine as five
    steps allow."""
    low, high = max(0.0, min(held)), min(1.0, max(held))
    for hundredths in (5, 10, 20):
        first, last = math.floor(100 * low / hundredths + 1e-9), math.ceil(100 * high / hundredths - 1e-9)
        first = min(first, 100 // hundredths - 1)
        last = max(last, first + 1)
        if last - first <= 5:
            break
    axis = (first * hundredths / 100, last * hundredths / 100)
    ticks = [k * hundredths / 100 for k in range(first, last + 1)]
    return axis, [(t, f"{t:.2f}" if hundredths == 5 else f"{t:.1f}") for t in ticks]


def _whiskers(utility: Bounds | None, quality: Bounds | None, low: float, axis: Bounds) -> Whiskers:
    """Whiskers end where the plot does."""
    across = utility and (_x(max(axis[0], utility[0]), axis), _x(min(axis[1], utility[1]), axis))
    down = quality and (_y(0.0 if quality[1] >= 1 else _log(quality[1], low), low), _y(_log(quality[0], low), low))
    return across, down


def _log(quality: float, low: float) -> float:
    return max(math.log10(quality), low) if quality > 0 else low


def _x(utility: float, axis: Bounds) -> float:
    return LEFT + (utility - axis[0]) / (axis[1] - axis[0]) * (WIDTH - LEFT - RIGHT)


def _y(log: float, low: float) -> float:
    return TOP + log / low * (HEIGHT - TOP - BOTTOM)


def labelled(indices: Sequence[int], names: Sequence[str], at: Sequence[tuple[float, float]], ends: Mapping[int, Whiskers]) -> list[Point]:
    """Each label takes the nearest free place around its point: no other label, marker or whisker, inside the plot. Top
    to bottom."""
    taken: list[Box] = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in at]
    for i, (x, y) in zip(indices, at, strict=True):
        across, down = ends[i]
        taken += [(across[0], y - 1, across[1], y + 1)] if across else []
        taken += [(x - 1, down[0], x + 1, down[1])] if down else []
    points = []
    for i in sorted(range(len(at)), key=lambda i: (at[i][1], at[i][0])):
        x, y = at[i]
        width = CHAR * len(names[i])
        places = list(_places(x, y))
        place = next((p for p in places if _free(_box(p, width), taken)), places[0])
        taken.append(_box(place, width))
        text_x, text_y, anchor = place
        far = abs(text_y - LINE / 3 - y) > 1.6 * LINE or abs(text_x - x) > 2.5 * MARK
        points.append(Point(indices[i], names[i], x, y, text_x, text_y, anchor, far))
    return points


def _places(x: float, y: float) -> Iterator[tuple[float, float, str]]:
    """(text x, baseline y, anchor), nearest first."""
    gap, base = MARK + 5, LINE / 3
    for rise in range(16):
        for sign in (1, -1) if rise else (1,):
            shift = sign * rise * LINE * 0.6
            yield x + gap, y + shift + base, "start"
            yield x - gap, y + shift + base, "end"
            if rise >= 2:
                yield x, y + shift + base, "middle"
    for rise in range(16):
        for sign in (1, -1):
            yield x + 4 * gap, y + sign * rise * LINE + base, "start"
            yield x - 4 * gap, y + sign * rise * LINE + base, "end"


def _box(place: tuple[float, float, str], width: float) -> Box:
    x, y, anchor = place
    left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
    return left, y - LINE * 0.8, left + width, y + LINE * 0.2


def _free(box: Box, taken: Sequence[Box]) -> bool:
    left, top, right, bottom = box
    if left < LEFT + 2 or right > WIDTH - 2 or top < 2 or bottom > HEIGHT - BOTTOM - 2:
        return False
    return all(right <= a or left >= c or bottom <= b or top >= d for a, b, c, d in taken)


def marker_path(index: int) -> str:
    """SVG path around (0, 0) of a result's marker; shapes repeat after len(SHAPES)."""
    r = MARK
    turns = [(r * (1.25 if k % 2 == 0 else 0.5), k * math.pi / 5) for k in range(10)]
    star = " ".join(f"{length * math.sin(angle):.2f},{-length * math.cos(angle):.2f}" for length, angle in turns)
    return {
        "circle": f"M{-r},0 a{r},{r} 0 1,0 {2 * r},0 a{r},{r} 0 1,0 {-2 * r},0 z",
        "square": f"M{-r},{-r} h{2 * r} v{2 * r} h{-2 * r} z",
        "up": f"M0,{-r * 1.15} L{r * 1.1},{r * 0.85} L{-r * 1.1},{r * 0.85} z",
        "diamond": f"M0,{-r * 1.25} L{r * 1.1},0 L0,{r * 1.25} L{-r * 1.1},0 z",
        "down": f"M0,{r * 1.15} L{r * 1.1},{-r * 0.85} L{-r * 1.1},{-r * 0.85} z",
        "plus": _cross(r),
        "cross": _cross(r, turned=True),
        "star": f"M{star} z",
    }[SHAPES[index % len(SHAPES)]]


def _cross(r: float, *, turned: bool = False) -> str:
    a = r * 0.36
    corners = [(-a, -r), (a, -r), (a, -a), (r, -a), (r, a), (a, a), (a, r), (-a, r), (-a, a), (-r, a), (-r, -a), (-a, -a)]
    if turned:
        half = math.sqrt(0.5)
        corners = [((x - y) * half, (x + y) * half) for x, y in corners]
    return "M" + " L".join(f"{x:.2f},{y:.2f}" for x, y in corners) + " z"
