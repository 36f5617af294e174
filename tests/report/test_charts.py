"""Bars, curves, divergence and layer maps, each held against numbers worked out apart."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.bars import BAR_WIDTH, LIMIT_AT, bars
from harness.report.divergence import HEIGHT, WIDTH, curves, divergence, relative_distance
from harness.report.layers import OTHER, first_bad_block, layer_maps
from harness.report.media import focus, key_frames
from harness.report.probes import probe_charts, worst_modules


def test_bars_put_the_broken_limit_first_and_cut_what_lies_far_beyond(make: ModuleType) -> None:
    golden = make.drawn_clip()
    rows = bars(make.measured_record("x", golden, make.broken_clip(golden)))
    assert [row.state for row in rows] == ["failed"] * 3
    assert rows[0].metric == "mad"
    assert rows[0].beyond
    assert rows[0].width == BAR_WIDTH
    psnr = next(row for row in rows if row.metric == "psnr")
    check = next(c for c in make.checks(make.measured(golden, make.broken_clip(golden))) if c.metric == "psnr")
    assert psnr.width == pytest.approx(LIMIT_AT * (100 - check.value) / (100 - 35))
    assert psnr.consumed == f"{(100 - check.value) / 65 * 100:.0f} %"


def test_a_metric_without_a_limit_is_shown_and_does_not_pass(make: ModuleType) -> None:
    golden = make.drawn_clip()
    found = make.measured_record("x", golden, golden).model_copy(update={"limits": ()})
    assert {row.state for row in bars(found)} == {"none"}


def test_curves_show_every_frame_and_mark_the_worst(make: ModuleType) -> None:
    golden = make.drawn_clip()
    found = make.measured_record("x", golden, make.broken_clip(golden))
    for curve in curves(found):
        points = [tuple(map(float, point.split(","))) for point in curve.points.split()]
        assert len(points) == 9
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
        assert all(10 <= y <= 82 for _, y in points), "the plot of a box of 600 x 96, of which 10 and 14 are margins"
        assert points[curve.worst_frame] == (curve.worst_x, curve.worst_y)
        assert curve.failed
        assert "broken" in curve.caption


def test_focus_and_key_frames_follow_the_worst_limit(make: ModuleType) -> None:
    golden = make.drawn_clip()
    found = make.measured_record("x", golden, make.broken_clip(golden))
    place = focus(found)
    assert place is not None
    assert place.frame == 8
    assert "above its limit" in place.why
    assert key_frames(found, 9)[0] == 8
    assert set(key_frames(found, 9)) >= {0, 4, 8}
    assert focus(make.record("y")) is None
    assert len(key_frames(make.record("y"), 9)) == 2
    named = found.verdict.model_copy(update={"cause": "psnr_below_limit"})
    chosen = focus(found.model_copy(update={"verdict": named}))
    assert chosen is not None
    assert chosen.why.startswith("psnr is")


def test_divergence_names_the_first_step_over_one_percent(make: ModuleType) -> None:
    golden, run = make.trace(), make.trace(0.05)
    found = divergence(golden, run)
    assert found is not None
    gaps = [
        float(np.linalg.norm(np.subtract(a.latent_sketch, b.latent_sketch)) / np.linalg.norm(b.latent_sketch))
        for a, b in zip(run.steps, golden.steps, strict=True)
    ]
    assert [dot.distance for dot in found.dots] == pytest.approx(gaps)
    assert found.first is not None
    assert found.first.index == next(i for i, gap in enumerate(gaps) if gap > 0.01) == 2
    assert [band.expert for band in found.bands] == ["transformer", "transformer_2"]


def test_divergence_of_the_same_way_and_of_none(make: ModuleType) -> None:
    same = divergence(make.trace(), make.trace())
    assert same is not None
    assert same.first is None
    assert "exactly" in same.sentence
    assert divergence(None, make.trace()) is None


@given(st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), min_size=1, max_size=8))
def test_relative_distance_is_numpys(values: list[float]) -> None:
    other = [value + 1.0 for value in values]
    norm = float(np.linalg.norm(values))
    wanted = math.inf if norm == 0 else float(np.linalg.norm(np.subtract(other, values))) / norm
    assert relative_distance(tuple(other), tuple(values)) == pytest.approx(wanted, rel=1e-6)


def test_probes_name_the_first_point_that_leaves_the_golden(make: ModuleType) -> None:
    bad, good = probe_charts(make.probe(5))
    assert "First diverging point of transformer at timestep 900: blocks.2.ffn" in bad.sentence
    points = [tuple(map(float, point.split(","))) for point in bad.points.split()]
    assert points[5] == (bad.first_x, bad.first_y)
    assert [name for _, name in bad.blocks] == ["0", "1", "2", "3"]
    assert good.first_x is None
    assert "stays with the golden" in good.sentence
    assert worst_modules(make.probe(5))[0].module == "blocks.2.ffn.net.2"
    assert probe_charts(None) == ()


def test_layer_maps_sign_what_contradicts(make: ModuleType) -> None:
    maps = layer_maps(make.inspection(fault=True))
    found = {(m.expert, m.quantity): m for m in maps}
    assert list(found) == [
        ("transformer", OTHER), ("transformer", "cosine"), ("transformer", "gain"),
        ("transformer_2", "cosine"), ("transformer_2", "gain"),
    ]  # fmt: skip
    bad_map, good_map = found["transformer", "cosine"], found["transformer_2", "cosine"]
    assert {cell.sign for cell in bad_map.cells} == {"✕"}
    assert {cell.sign for cell in good_map.cells} == {""}
    assert min(cell.level for cell in bad_map.cells) > max(cell.level for cell in good_map.cells)
    assert {cell.level for cell in found["transformer", OTHER].cells} == {6}
    assert {m.quantity for m in layer_maps(make.inspection(fault=False))} == {"cosine", "gain"}
    bad = first_bad_block(make.inspection(fault=True))
    assert bad is not None
    assert (bad.expert, bad.block) == ("transformer", 0)
    assert first_bad_block(make.inspection(fault=False)) is None


def test_another_reading_is_drawn_only_where_it_explains_the_fault(make: ModuleType) -> None:
    report = make.inspection(fault=True)
    gain = tuple(layer.model_copy(update={"declared": layer.hypothesis, "gain": 0.25, "cosine": 0.99})
                 if layer.state == "contradicted" else layer for layer in report.layers)  # fmt: skip
    scaled = report.model_copy(update={"layers": gain, "contracts": ()})
    quantities = [(m.expert, m.quantity) for m in layer_maps(scaled)]
    assert quantities[:2] == [("transformer", "gain"), ("transformer", "cosine")], "what is wrong comes first"
    assert OTHER not in {quantity for _, quantity in quantities}


def test_what_a_disagreeing_runtime_reads_is_drawn_though_the_bytes_are_as_declared(make: ModuleType) -> None:
    report = make.inspection(fault=True)
    sound = tuple(
        layer.model_copy(update={"declared": layer.hypothesis, "state": "proven", "cosine": 0.995, "gap": 0.9})
        for layer in report.layers
    )
    found = {(m.expert, m.quantity): m for m in layer_maps(report.model_copy(update={"layers": sound}))}
    assert {cell.level for cell in found["transformer", OTHER].cells} == {6}
    assert ("transformer_2", OTHER) not in found, "the runtime's assumption is of the other expert"
