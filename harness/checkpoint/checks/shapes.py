"""Shapes and dtypes against the base and against the model's own configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.checkpoint.context import Context
from harness.checkpoint.findings import finding, some
from harness.checkpoint.modules import block_of, is_scale
from harness.formats.codecs import FLOAT_DTYPES
from harness.records.inspection import InspectionFinding


def shapes_and_dtypes(context: Context) -> Iterator[InspectionFinding]:
    """A packed weight is [N, K/2] of the base's [N, K]; everything else has the base's shape and a float dtype."""
    for expert, component in context.experts.items():
        base = context.base.get(expert)
        if base is None:
            continue
        wrong: list[str] = []
        integers: list[str] = []
        for name, entry in component.tensors.items():
            stem = name.replace(".weight_packed", ".weight")
            anchor = base.tensors.get(stem)
            if anchor is None or is_scale(name):
                continue
            module = context.modules[expert].get(stem.removesuffix(".weight"))
            quantized = module is not None and module.quantized and stem.endswith(".weight")
            if quantized and module is not None and module.opaque and module.logical is None:
                continue  # packed in a way that is not decoded: its stored shape says nothing
            shape = module.shape if quantized and module is not None else entry.shape
            if shape != anchor.shape:
                wrong.append(f"{name} {list(entry.shape)} for {list(anchor.shape)}")
            elif not quantized and entry.dtype not in FLOAT_DTYPES:
                integers.append(f"{name} {entry.dtype}")
        if wrong:
            yield finding(
                "fault",
                "shape_differs",
                f"{expert}: {len(wrong)} tensors do not have the shape that the base asks for ({some(wrong)}).",
                expert=expert,
                tensor=wrong[0].split(" ")[0],
                evidence={"tensors": wrong[:20], "count": len(wrong)},
            )
        if integers:
            yield finding(
                "fault",
                "dtype_differs",
                f"{expert}: tensors that are no Linear weights are not stored as floats ({some(integers)}).",
                expert=expert,
                evidence={"tensors": integers[:20]},
            )


def config_against_tensors(context: Context) -> Iterator[InspectionFinding]:
    """A Wan transformer's ``config.json`` against block count, width and feed-forward width."""
    for expert, component in context.experts.items():
        if component.config.get("_class_name") != "WanTransformer3DModel" or not component.tensors:
            continue
        wrong = [
            f"{name}: config {said}, tensors {seen}"
            for name, said, seen in _wan(component.config, context, expert)
            if said != seen
        ]
        if wrong:
            yield finding(
                "fault",
                "config_contradicts_tensors",
                f"{expert}: config.json and the tensors describe different models ({some(wrong)}).",
                expert=expert,
                evidence={"fields": wrong},
            )


def _wan(config: Mapping[str, Any], context: Context, expert: str) -> Iterator[tuple[str, Any, Any]]:
    tensors, modules = context.experts[expert].tensors, context.modules[expert]
    blocks = {number for number in map(block_of, tensors) if number is not None}
    if isinstance(config.get("num_layers"), int):
        yield "num_layers", config["num_layers"], len(blocks)
    heads, width = config.get("num_attention_heads"), config.get("attention_head_dim")
    query = modules.get("blocks.0.attn1.to_q")
    if query is not None and isinstance(heads, int) and isinstance(width, int):
        yield "inner width", heads * width, query.shape[0]
    feed = modules.get("blocks.0.ffn.net.0.proj")
    if feed is not None and isinstance(config.get("ffn_dim"), int):
        yield "ffn_dim", config["ffn_dim"], feed.shape[0]
