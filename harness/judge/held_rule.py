"""Compare the weights that a run holds in memory with those that the golden's run held, if the files are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from harness.records.base import Json
from harness.records.generation import Trace
from harness.records.verdict import Finding

Held = dict[str, dict[str, str]]
SHOWN = 3


def differing(run: Held, golden: Held) -> Held:
    """Return, per component, the kinds of tensors that hold other values: ``rounded`` (to bfloat16) or ``other``.

    A kind of tensor that one side lacks is left out: a runtime may fuse q, k and v, or keep scales in another form.

    Args:
        run: of the run, see `harness.engine.held`.
        golden: of the golden.
    """
    kinds: Held = {}
    for component in sorted(run.keys() & golden.keys()):
        run_words, golden_words = run[component], golden[component]
        changed = {
            kind: word
            for kind in sorted(run_words.keys() & golden_words.keys())
            if (word := _changed(run_words[kind], golden_words[kind]))
        }
        if changed:
            kinds[component] = changed
    return kinds


def findings_of(stage: Literal["probe", "trace"], differences: Held) -> Iterator[Finding]:
    """Yield a finding per component in the result of `differing`. Call it only if both runs loaded the same weights."""
    for component, changed in differences.items():
        listed = ", ".join(changed) if len(changed) <= SHOWN else _listed(changed)
        message = (
            f"{component} holds other values in memory than the golden's run, though the files are the same: "
            f"{listed}; {_how(changed)}"
        )
        data: dict[str, Json] = {
            "component": component,
            "tensors": list[Json](sorted(changed)),
            "rounded": set(changed.values()) == {"rounded"},
        }
        yield Finding(stage=stage, code="held_weights_differ", gating=True, message=message, data=data)


def judge_held(run: Trace, reference: Trace) -> Iterator[Finding]:
    """Yield a finding per component that holds other values than in the golden's run of the same weights."""
    yield from findings_of("trace", differing(run.alone.held, reference.alone.held))


def _listed(changed: Mapping[str, str]) -> str:
    return f"{', '.join(list(changed)[:SHOWN])} and {len(changed) - SHOWN} more kinds of tensors"


def _changed(run: str, golden: str) -> str:
    """Return how a kind of tensor differs: ``rounded``, ``other``, or an empty text if it does not, or may not.

    Args:
        run: words ``exact/rounded`` of the run, one per tensor.
        golden: the same of the golden.
    """
    pairs = list(zip(run.split(), golden.split(), strict=False))
    if len(run.split()) != len(golden.split()):
        return ""  # other layers are held, which a probe or an inspection names
    differing = [(word, other) for word, other in pairs if word.partition("/")[0] != other.partition("/")[0]]
    if not differing:
        return ""
    return "rounded" if all(word.partition("/")[0] == other.partition("/")[2] for word, other in differing) else "other"


def _how(changed: Mapping[str, str]) -> str:
    if set(changed.values()) == {"rounded"}:
        return "they were rounded to bfloat16"
    return "they were rounded to a narrower dtype, merged with an adapter, or overwritten after the load"
