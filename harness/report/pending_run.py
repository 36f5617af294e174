"""Pending candidates as a run: the same pages, old against new, before anything is accepted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.errors import GoldenError
from harness.goldens.store import GoldenStore, open_store
from harness.report.load import Entry, Run, load_run

PENDING = (".quantgate", "pending")
_PARTS = {"clip": "golden", "trace": "golden_trace"}
"""Part of a golden to the artifact that a page looks for."""


def is_pending(folder: Path) -> bool:
    """Whether a folder is a project's pending candidates."""
    return folder.resolve().parts[-2:] == PENDING


def load_pending(folder: Path) -> Run:
    """The candidates under ``<root>/.quantgate/pending``, each with the golden that it was judged against.

    A golden that is only on a hub, and was never fetched, is left out: nothing here uses the network.

    Raises:
        ReportError: nothing is pending.
    """
    run = load_run(folder)
    store = open_store(folder.resolve().parent.parent / "goldens", offline=True)
    return replace(run, name="pending candidates", entries=tuple(_with_golden(entry, store) for entry in run.entries))


def _with_golden(entry: Entry, store: GoldenStore) -> Entry:
    record, candidate = entry.record, entry.candidate
    slug = f"{record.runner}-{entry.slug}"
    if candidate is None or candidate.golden is None:
        return replace(entry, slug=slug)
    found: dict[str, Path] = {}
    try:
        golden = store.get(candidate.runner, candidate.case, candidate.golden)
        for part, name in _PARTS.items():
            if part in golden.manifest.parts:
                found[name] = golden.open_part(part)
    except GoldenError:
        return replace(entry, slug=slug)
    return replace(entry, slug=slug, elsewhere=found)
