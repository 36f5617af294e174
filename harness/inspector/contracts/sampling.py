"""Predict the schedule that a runtime will sample with, from a repository's JSON files and its name alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from harness.inspector.contracts.model import Rules

UNKNOWN_SHIFT = 3.0
"""Flow shift of Wan 2.1's 480P configuration, which a ``WanPipeline`` of unknown name gets."""


@dataclass(frozen=True)
class SamplingPrediction:
    """Flow shift, boundary and experts of a repository inside a runtime."""

    refused: str = ""
    """Why the runtime refuses the repository; empty: it loads."""
    two_experts: bool = False
    """Whether ``transformer_2`` is loaded. If not, ``transformer`` serves every step."""
    boundary_ratio: float | None = None
    flow_shift: float = UNKNOWN_SHIFT
    known_as: str = ""
    """Entry of the runtime's list by which it recognises the repository; empty: it does not."""
    refused_keys: tuple[str, ...] = ()
    """Keys of ``scheduler_config.json`` that stop the load."""


def predict_sampling(
    rules: Rules,
    index: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    repository: str | None,
    folders: Collection[str] | None = None,
) -> SamplingPrediction:
    """Return the schedule settings that the runtime will use.

    Args:
        rules: rules of one range of versions.
        index: ``model_index.json``.
        scheduler: ``scheduler_config.json``; empty: the file is absent, and there is no finding on it.
        repository: name that the repository is served as (``model_id``, or ``owner/name``); ``None``: only a local
            path is known.
        folders: folders of the repository; ``None``: not known, and none is missed.
    """
    names = _known_as(rules, repository)
    shift = rules.registry.flow_shift[names] if rules.registry is not None and names else UNKNOWN_SHIFT
    boundary: Any = index.get("boundary_ratio") if rules.boundary_ratio == "model_index" else rules.boundary_ratio
    second = index.get("transformer_2")
    present = second not in (None, [None, None])
    keys = refused_keys(rules, scheduler)
    refused = (
        _refused_index(index, folders)
        or _refused_scheduler(rules, scheduler, keys)
        or _refused_boundary(boundary, second)
    )
    if refused:
        return SamplingPrediction(refused, flow_shift=shift, known_as=names, refused_keys=keys)
    # without a boundary the pipeline never asks for the second expert, whatever the folder holds
    two = present and boundary is not None
    return SamplingPrediction("", two, float(boundary) if two else None, shift, names)


def _refused_index(index: Mapping[str, Any], folders: Collection[str] | None) -> str:
    if "_diffusers_version" not in index:
        return "model_index.json states no _diffusers_version"
    pairs = (name for name, value in index.items() if isinstance(value, list) and len(value) == 2 and None not in value)
    lost = sorted(name for name in pairs if folders is not None and name not in folders)
    return f"model_index.json names {', '.join(lost)}, and there is no such folder" if lost else ""


def refused_keys(rules: Rules, scheduler: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of ``scheduler_config.json`` that the runtime's class does not take and that stop the load."""
    if not rules.schedulers:
        return tuple(sorted(set(rules.scheduler_refuses) & scheduler.keys()))
    taken = rules.schedulers.get(str(scheduler.get("_class_name")))
    # private keys are notes of diffusers
    return (
        () if taken is None else tuple(sorted(key for key in scheduler if key not in taken and not key.startswith("_")))
    )


def _refused_scheduler(rules: Rules, scheduler: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    name = scheduler.get("_class_name")
    if rules.schedulers and scheduler and name is None:
        return "scheduler_config.json names no _class_name"
    if rules.schedulers and scheduler and name not in rules.schedulers:
        return f"it has no scheduler {name!r}"
    return f"its {name or 'scheduler'} takes no {', '.join(keys)} of scheduler_config.json" if keys else ""


def _refused_boundary(boundary: Any, second: Any) -> str:
    if boundary is None:
        return ""
    if second is None:
        return "model_index.json states a boundary_ratio and no transformer_2"
    if not isinstance(boundary, int | float):
        return f"boundary_ratio {boundary!r} is no number"
    return ""


def _known_as(rules: Rules, repository: str | None) -> str:
    if rules.registry is None or repository is None:
        return ""
    name = short_name(repository)
    return next((item for item in rules.registry.flow_shift if short_name(item) in name), "")


def short_name(repository: str) -> str:
    """Return the last part of ``owner/name``, in lower case: the runtime looks for it inside another name."""
    return repository.rsplit("/", 1)[-1].lower()
