"""Stage 1: inspect the checkpoints of a case before an engine loads them; once per session while they are unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness.definitions.case import Case, CheckpointRef
from harness.engine.resolve import hub_is_offline, resolve_cached, resolve_checkpoint
from harness.engine.stamps import Stamps, stamps_of
from harness.inspector.inspect import Asked
from harness.records.base import Record
from harness.records.inspection import CheckpointComparison, InspectionReport
from harness.session.contents import Contents

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Inspected:
    """Results of stage 1."""

    report: InspectionReport
    digests: dict[str, str]
    """sha256 of every file that the engine loads, by ``component/file``."""
    stamps: Stamps
    """Stamps of the same files, taken before the inspection, so that a change during it is noticed."""
    contents: Contents
    """Contents of the same files, read on demand."""


class Inspector:
    """Inspects checkpoints for one session.

    Cases that name the same checkpoints, loader and contracts share one inspection, as long as none of its files was
    replaced or written, see ``harness.engine.stamps``.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_key: dict[str, Inspected] = {}

    def look(self, case: Case, paths: Mapping[str, Path]) -> Inspected:
        """Inspect the checkpoints of a case, or return the earlier result.

        Args:
            case: the resolved case.
            paths: folder by role, as the engine gets them.

        Raises:
            QuantgateError: there is nothing to inspect, or a source failed.
        """
        base = base_of(case, self._root)
        stamps = stamps_of({role: path.resolve() for role, path in paths.items()})
        key = _key(case, stamps, base)
        if key not in self._by_key:
            report = inspect(case, self._root, paths)
            digests = weight_digests(report, paths["model"])
            self._by_key[key] = Inspected(report, digests, stamps, Contents(paths, digests))
        return self._by_key[key]


DEPENDS = ("contracts", "loader", "env", "quantization", "base", "backend", "runtime")
"""Fields of a case that its inspection depends on, beside the checkpoints."""


def _key(case: Case, stamps: Stamps, base: Path | CheckpointRef | None) -> str:
    """Return a key of everything that an inspection depends on."""
    fields = case.model_dump(mode="json", include=set(DEPENDS))
    anchor = stamps_of({"base": base}) if isinstance(base, Path) else {}
    return json.dumps([fields, stamps, anchor], sort_keys=True)


def inspect(case: Case, root: Path, paths: Mapping[str, Path]) -> InspectionReport:
    """Inspect the local checkpoints that the engine will load.

    Args:
        case: the resolved case.
        root: the repository's root.
        paths: folder by role, as the engine gets them.

    Raises:
        QuantgateError: there is nothing to inspect, or a source failed.
    """
    from harness.inspector.proofs import inspect_once

    experts: Asked = {"transformer": paths.get("transformer"), "transformer_2": paths.get("transformer_2")}
    around: Asked = {"base": base_of(case, root), "root": root}
    return without_root(inspect_once(paths["model"], **(experts | around | settings_of(case))), root)


def settings_of(case: Case) -> Asked:
    """Return the settings of a case's inspection that its fields state, beside the checkpoints."""
    return {
        "contracts": deployed_to(case),
        # another runtime reads the bytes by its own rules, which its contract states
        "loader": None if case.runtime else case.loader,
        "env": case.env,
        "expected": case.quantization.model_dump(),
    }


def deployed_to(case: Case) -> tuple[str, ...]:
    """Return the runtimes whose contracts apply to the checkpoint: the case's own first, then ``contracts``."""
    return tuple(dict.fromkeys((*([case.runtime] if case.runtime else []), *case.contracts)))


def difference(
    new: Mapping[str, Path], old: Mapping[str, Path], root: Path, *, proof: tuple[InspectionReport, InspectionReport]
) -> CheckpointComparison:
    """Return the effects of a switch of checkpoints: dialect, declarations, tensors, and facts proved by both files.

    Args:
        new, old: folder by role.
        root: the repository's root.
        proof: inspections of the new and of the old checkpoint.
    """
    from harness.inspector.compare import compare_checkpoints, with_proof

    differences = compare_checkpoints(
        new["model"],
        old["model"],
        transformer=new.get("transformer"),
        against_transformer=old.get("transformer"),
        root=root,
        digests=False,
    )
    return without_root(with_proof(differences, *proof), root)


def without_root(record: R, root: Path) -> R:
    """Return the record with paths relative to the root: the absolute place of a checkout is private to its owner."""
    text = record.to_json().replace(json.dumps(f"{root}/")[1:-1], "./")
    return type(record).model_validate_json(text)


def base_of(case: Case, root: Path) -> Path | CheckpointRef | None:
    """Return the BF16 anchor: its local folder, else a reference that is read by ranges from the hub; ``None`` if the
    case has no base, or if it is not local and the hub is offline.
    """
    if case.base is None or case.base.is_local:
        return None if case.base is None else resolve_checkpoint(case.base, root, place=case.id)
    try:
        return resolve_cached(case.base)
    except FileNotFoundError:
        return None if hub_is_offline() else case.base


def weight_digests(report: InspectionReport, model: Path) -> dict[str, str]:
    """Return the sha256 of every file that the engine loads, by ``component/file``."""
    from harness.inspector.content import other_files
    from harness.inspector.identity import DigestCache, digest_files
    from harness.inspector.sources import Meter, open_source

    source, cache = open_source(model, Meter()), DigestCache()
    digests = {item.path: item.sha256 for item in digest_files(source, other_files(source.files), cache)}
    cache.save()
    return {**report.digests, **digests}
