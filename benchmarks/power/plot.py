"""ROC and detection by strength as one PNG, drawn with pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.power.result import Result
from benchmarks.power.score import Scorer, distinct_benign, roc

COLOURS = ("#c1121f", "#e07a5f", "#003049", "#2a9d8f", "#6a4c93", "#8d99ae", "#bc6c25", "#588157")
SIDE, EDGE, LEGEND = 420, 60, 150
Curve = Sequence[tuple[float, float]]


def draw(rows: Sequence[Result], by_rule: Mapping[str, Scorer], path: Path) -> Path:
    """Write the picture: left ROC up to 20 % false alarms, right detection by strength of what has one."""
    benign, faults = distinct_benign(rows), [row for row in rows if row.side == "fault"]
    image = Image.new("RGB", (2 * (SIDE + EDGE) + EDGE, SIDE + 2 * EDGE + LEGEND), "white")
    pen = ImageDraw.Draw(image)
    left = {n: roc([s(row) for row in benign], [s(row) for row in faults]) for n, s in by_rule.items()}
    graded = [row for row in faults if row.strength is not None]
    strengths = sorted({row.strength for row in graded if row.strength is not None})
    right = {name: [(x, _share(graded, score, x)) for x in strengths] for name, score in by_rule.items()}
    _panel(pen, (EDGE, EDGE), "share of healthy runs that alarm", left, 0.2)
    _panel(pen, (SIDE + 2 * EDGE, EDGE), "strength of fault (own limits)", right, 1.0)
    for index, name in enumerate(by_rule):
        y = SIDE + 2 * EDGE + 16 * index
        pen.line([(EDGE, y), (EDGE + 24, y)], fill=COLOURS[index % len(COLOURS)], width=3)
        pen.text((EDGE + 32, y - 6), name, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def _share(rows: Sequence[Result], score: Scorer, strength: float) -> float:
    rows_of_strength = [row for row in rows if row.strength == strength]
    return sum(score(row) > 1 for row in rows_of_strength) / len(rows_of_strength)


def _panel(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], label: str, curves: Mapping[str, Curve], wide: float
) -> None:
    x0, y0 = corner
    for tick in range(6):
        y = y0 + SIDE - tick * SIDE // 5
        x = x0 + tick * SIDE // 5
        pen.line([(x0, y), (x0 + SIDE, y)], fill="#dddddd")
        pen.text((x0 - 34, y - 6), f"{tick * 20} %", fill="black")
        pen.text((x - 10, y0 + SIDE + 6), f"{tick * wide / 5:.2g}", fill="black")
    pen.rectangle([x0, y0, x0 + SIDE, y0 + SIDE], outline="black")
    pen.text((x0, y0 - 18), f"detection over {label}", fill="black")
    for index, curve in enumerate(curves.values()):
        inside = [(x0 + SIDE * x / wide, y0 + SIDE * (1 - y)) for x, y in curve if x <= wide]
        colour = COLOURS[index % len(COLOURS)]
        pen.line(inside, fill=colour, width=2)
        for at, up in inside if len(inside) < 20 else inside[:1]:
            pen.ellipse([at - 3, up - 3, at + 3, up + 3], fill=colour)
