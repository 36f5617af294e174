"""Draw the inspector's evidence per layer as a map: modules by blocks, one cell per tensor."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from harness.records.inspection import InspectionReport, LayerEvidence
from harness.report.text import number

CELL, ROW, LEFT, TOP = 14.0, 18.0, 150.0, 20.0
OTHER = "cosine as the runtime reads it"
"""Cosine for a runtime that reads the bytes as declared, or as its contract assumes; drawn if that reading is the
runner-up."""
_BLOCK = re.compile(r"^(?:.*?\.)?blocks\.\d+\.")
_STATES = {"proven": "", "inconclusive": "?", "contradicted": "✕", "not_provable": "–"}


@dataclass(frozen=True)
class Cell:
    """The cell of one tensor."""

    x: float
    y: float
    level: int
    """0 (equal to the base) to 6 (nothing in common with the base); -1 without a value."""
    sign: str
    title: str


@dataclass(frozen=True)
class LayerMap:
    """The map of one expert and one quantity."""

    expert: str
    quantity: str
    rows: tuple[tuple[float, str], ...]
    columns: tuple[tuple[float, str], ...]
    cells: tuple[Cell, ...]
    width: float
    height: float
    caption: str


def layer_maps(report: InspectionReport | None) -> tuple[LayerMap, ...]:
    """Return maps of cosine and gain for every expert with evidence in its blocks, the worst map first.

    If the bytes are sound and a runtime will read them otherwise, cosine and gain show no fault. Then a map with the
    cosine of that reading is added, named `OTHER`. It is left out if no module is misread.
    """
    layers = report.layers if report else ()
    experts = dict.fromkeys(layer.expert for layer in layers)
    pictures: list[LayerMap] = []
    for expert in experts:
        own_layers = [layer for layer in layers if layer.expert == expert]
        misread = {layer.module for layer in own_layers if report is not None and _misread(layer, report)}
        quantities = [OTHER, "cosine", "gain"] if misread else ["cosine", "gain"]
        maps = [
            picture for quantity in quantities if (picture := _map(expert, quantity, own_layers, misread)) is not None
        ]
        pictures += sorted(maps, key=lambda picture: -max((cell.level for cell in picture.cells), default=0))
    return tuple(pictures)


def _misread(layer: LayerEvidence, report: InspectionReport) -> bool:
    """Return whether the runner-up among the readings is the declared one, or the one a disagreeing runtime assumes."""
    if not layer.runner_up or report.outcome != "fault":
        return False
    if layer.state == "contradicted" and layer.declared == layer.runner_up:
        return True
    order, _, layout = layer.hypothesis.partition("/")
    for contract in report.contracts:
        if contract.agrees is False and contract.expert == layer.expert:
            assumed = {assumption.field: str(assumption.value) for assumption in contract.assumptions}
            reading = f"{assumed.get('nibble_order', order)}/{assumed.get('scale_layout', layout)}"
            if reading == layer.runner_up:
                return True
    return False


def first_bad_block(report: InspectionReport | None) -> LayerEvidence | None:
    """Return the earliest layer whose bytes contradict the declared reading; layers outside the blocks come first."""
    bad = [layer for layer in (report.layers if report else ()) if layer.state == "contradicted"]
    return min(bad, key=lambda layer: (layer.expert, -1 if layer.block is None else layer.block), default=None)


def outside_blocks(report: InspectionReport | None) -> tuple[LayerEvidence, ...]:
    """Return the layers outside the blocks."""
    return tuple(layer for layer in (report.layers if report else ()) if layer.block is None)


def _map(expert: str, quantity: str, layers: list[LayerEvidence], misread: set[str]) -> LayerMap | None:
    inside = [layer for layer in layers if layer.block is not None and _value(layer, quantity, misread) is not None]
    if not inside:
        return None
    names = list(dict.fromkeys(short_module(layer.module) for layer in inside))
    blocks = sorted({layer.block for layer in inside if layer.block is not None})
    cells = tuple(
        Cell(
            x=LEFT + CELL * blocks.index(layer.block or 0),
            y=TOP + ROW * names.index(short_module(layer.module)),
            level=_level(_value(layer, quantity, misread), quantity),
            sign=_STATES[layer.state] if quantity != OTHER else "",
            title=_title(layer),
        )
        for layer in inside
    )
    step = max(1, len(blocks) // 10)
    worst = min(inside, key=lambda layer: -_level(_value(layer, quantity, misread), quantity))
    bad = sum(layer.state == "contradicted" for layer in inside)
    return LayerMap(
        expert=expert,
        quantity=quantity,
        rows=tuple((TOP + ROW * place + ROW * 0.7, name) for place, name in enumerate(names)),
        columns=tuple(
            (LEFT + CELL * (place + 0.5), str(block)) for place, block in enumerate(blocks) if place % step == 0
        ),
        cells=cells,
        width=LEFT + CELL * len(blocks) + 8,
        height=TOP + ROW * len(names) + 4,
        caption=(
            f"{expert}: {quantity}; decoded rows against the BF16 base, "
            f"{len(inside)} tensors in {len(blocks)} blocks, {bad} contradicted; worst: {_title(worst)}"
        ),
    )


def short_module(module: str) -> str:
    """Return the module's name inside its block: ``attn1.to_q`` of ``blocks.3.attn1.to_q``."""
    return _BLOCK.sub("", module)


def _value(layer: LayerEvidence, quantity: str, misread: set[str]) -> float | None:
    if quantity == OTHER and layer.module in misread:
        return None if layer.cosine is None or layer.gap is None else layer.cosine - layer.gap
    if quantity == OTHER:
        return layer.cosine
    return layer.cosine if quantity == "cosine" else layer.gain


def _level(value: float | None, quantity: str) -> int:
    """Return 0 for the value of a healthy FP4 or FP8 tensor, up to 6 for a value without relation to the base."""
    if value is None or not math.isfinite(value):
        return -1
    if quantity != "gain":
        return sum(value < edge for edge in (0.999, 0.99, 0.97, 0.9, 0.7, 0.3))
    # in octaves, so that a doubled and a halved gain are equally bad
    distance = abs(math.log2(value)) if value > 0 else math.inf
    return sum(distance > edge for edge in (0.02, 0.05, 0.15, 0.5, 1.0, 3.0))


def _title(layer: LayerEvidence) -> str:
    return (
        f"{layer.module}: cosine {number(layer.cosine)}, gain {number(layer.gain)}, "
        f"reads as {layer.hypothesis}, next best {layer.runner_up or 'none'}, declared {layer.declared}, {layer.state}"
    )
