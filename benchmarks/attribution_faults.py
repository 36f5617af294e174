"""The fault list of ``benchmarks.attribution``: what is broken, and what must be said of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """One fault, or several at once, and the answer."""

    name: str
    specs: tuple[Spec, ...]
    cause: tuple[str, ...]
    """Codes of which each must be named, the first of them or one beside it; empty: benign, nothing may be flagged."""
    place: str = ""
    """What ``place`` of the cause must hold."""
    checkpoint: str = ""
    """Name of a broken export to load instead: ``stale``, ``nibbles``, or a task of `benchmarks.power.design`."""
    generates: bool = True
    """Whether the generation is run although a probe may have decided: for what pixels would have said."""


def one(name: str, cause: str, place: str = "", *, generates: bool = True, **spec: Any) -> Fault:
    """A single fault; its kind is the first word of its name."""
    return Fault(name, ({"kind": name.split()[0], **spec},), (cause,) if cause else (), place, generates=generates)


ONE = "transformer_2/blocks.2.ffn.net.2"
OTHER = "transformer/blocks.3.attn1.to_v"


def dev_list() -> tuple[Fault, ...]:
    """The list of the issue, single Linears apart."""
    return (
        one("nibble both experts", "nibble_order", "both experts", where_="*"),
        one("nibble high expert", "nibble_order", "transformer", where_="transformer"),
        one("nibble low expert", "nibble_order", "transformer_2", where_="transformer_2"),
        one("nibble one block", "nibble_order", "transformer_2/blocks.3", where_="transformer_2/blocks.3"),
        one("swizzled one Linear", "scale_layout", ONE, where_=ONE),
        one("rolled one Linear", "scale_layout", OTHER, where_=OTHER),
        one("gain 1%", "gain", ONE, where_=ONE, by=1.01),
        one("gain 5%", "gain", OTHER, where_=OTHER, by=1.05),
        one("gain 2x", "gain", ONE, where_=ONE, by=2.0),
        one("expert_bf16 high", "quantized_path_not_run", "transformer", where_="transformer"),
        one("expert_bf16 low", "quantized_path_not_run", "transformer_2", where_="transformer_2"),
        one("experts_swapped", "experts_swapped", "both experts"),
        one("boundary .875 -> .9", "boundary_ratio", to=0.9),
        one("boundary .875 -> .5", "boundary_ratio", to=0.5),
        one("flow_shift 3 -> 5", "flow_shift", to=5.0),
        one("guidance 3 -> 4", "guidance", to=4.0),
        one("sequence_length 64 -> 512", "sequence_length", to=512),
        one("sequence_length 64 -> 32", "sequence_length", to=32),
        one("tokenizer shifted", "text_tokens"),
        one("vae_statistics dropped", "vae_statistics"),
        one("vae_bf16", "vae_dtype"),
        one("stale weights in memory, 5 %", "unexplained_weights", "both experts", where_="*", by=0.05),
        Fault("stale base on disk, 5 %", (), ("base_stale",), checkpoint="stale"),
        Fault("nibbles on disk", (), ("nibble_order",), checkpoint="nibbles"),
        one("mask lost", "attention_mask"),
        one("eps 1e-6 -> 1e-5", "norm", "blocks.2.norm2", where_="transformer_2/blocks.2.norm2", to=1e-5),
        one("eps 1e-6 -> 1e-2", "norm", "blocks.2.norm2", where_="transformer_2/blocks.2.norm2", to=1e-2),
        one("eps 1e-6 -> 1 in qk", "norm", "blocks.1.attn1.norm_q", where_="transformer/blocks.1.attn1.norm_q", to=1.0),
    )


FRESH = "fresh process"
BENIGN = (
    *(one(name, "") for name in ("healthy", "threads", "fp32", "batch", "attention_backend", "ulp")),
    one(FRESH, "", kind="healthy"),
)


def every_linear(names: dict[str, tuple[str, ...]]) -> Iterator[Fault]:
    """A nibble swap in every quantized Linear in turn; stopped by the probe, as it would be in the lane."""
    for expert, modules in names.items():
        for module in modules:
            place = f"{expert}/{module}"
            yield one(f"nibble {place}", "nibble_order", place, generates=False, where_=place)


def sent(fault: Fault) -> list[Spec]:
    """What the engine is told: ``where_`` is the place of the fault, so that it does not collide with the answer's."""
    return [{name.rstrip("_"): value for name, value in spec.items()} for spec in fault.specs]
