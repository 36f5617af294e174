"""Runs entries of the list through whole runs, one engine for as many of them as may share it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.unseen.design import Entry, Form
from benchmarks.unseen.files import EDITS
from benchmarks.unseen.result import Result, causes_of
from benchmarks.unseen.second_files import SECOND_EDITS
from benchmarks.unseen.setup import Bench, prepare
from benchmarks.unseen.third_files import THIRD_EDITS
from harness.frames.clip import read_clip
from harness.records.case_record import CaseRecord
from harness.session.conductor import Session

RESULT_LIMIT = 400


@dataclass(frozen=True)
class Job:
    """Entries of one format, run one after the other in one process."""

    form: Form
    folder: Path
    """Where golden, copies and runs of this format lie."""
    entries: tuple[Entry, ...]
    out: Path
    """File that a JSON line is added to for each run."""
    code: str
    until: float
    """``time.time()`` after which no run is begun."""


def run_job(job: Job, report_line: Callable[[str], None] = print) -> int:
    """Run what a job names. Returns how many runs were added."""
    bench = prepare(job.folder, job.form)
    session = Session(replace(bench.context, run=f"{job.code[:12]}"))
    done = 0
    try:
        for entry in job.entries:
            if time.time() > job.until:
                break
            result = _run(bench, session, entry, job.code)
            with job.out.open("a", encoding="utf-8") as opened:
                opened.write(result.model_dump_json() + "\n")
            done += 1
            first = result.causes[0][:70] if result.causes else "-"
            report_line(f"{entry.id:<40} {result.outcome:<18} {result.seconds:5.1f} s  {first}")
    finally:
        session.close()
    return done


def _run(bench: Bench, shared: Session, entry: Entry, code: str) -> Result:
    began = time.monotonic()
    session, here = shared, bench
    if entry.files:
        here = _copied(bench, entry)
        session = Session(replace(here.context, run=f"{code[:12]}/{entry.id}"))
    elif entry.case.get("env") or entry.case.get("execution"):
        session = Session(replace(here.context, run=f"{code[:12]}/{entry.id}"))
    located = here.changed(entry.case)
    if entry.fresh:
        session.pool.discard(located.case)
    if entry.warm:
        session.context = replace(session.context, run=f"{code[:12]}/{entry.id}-before")
        session.run_case(located, entry.id, lambda _event: None)
    bench.switch(entry)
    try:
        session.context = replace(session.context, run=f"{code[:12]}/{entry.id}")
        finished = session.run_case(located, entry.id, lambda _event: None)
        return _result(bench, entry, finished.record, finished.folder, code, time.monotonic() - began)
    finally:
        bench.switch(None)
        if session is not shared:
            session.close()
        if entry.files:
            shutil.rmtree(here.context.root, ignore_errors=True)


def _copied(bench: Bench, entry: Entry) -> Bench:
    """A repository with the edited export, moved where the entry asks for it."""
    here = bench.copy(entry, {**EDITS, **SECOND_EDITS, **THIRD_EDITS}[entry.files])
    moved = entry.case.get("model", {}).get("path")
    if moved:
        (here.context.root / "tiny" / "exports" / bench.form).rename(here.context.root / moved)
    return here


def _result(bench: Bench, entry: Entry, record: CaseRecord, folder: Path, code: str, seconds: float) -> Result:
    verdict = record.verdict
    return Result(
        id=entry.id,
        code=code,
        outcome=verdict.outcome.value,
        verdict_cause=verdict.cause,
        summary=verdict.summary[:RESULT_LIMIT],
        next_command=verdict.next_command[:RESULT_LIMIT],
        causes=causes_of(record, record.attribution),
        attribution_seconds=_attribution_seconds(folder),
        seconds=seconds,
        distance=_distance(bench, record, folder),
        error=" / ".join(record.log_tail[-2:])[:RESULT_LIMIT] if verdict.outcome.value == "infra" else "",
    )


def _attribution_seconds(folder: Path) -> float | None:
    path = folder / "experiments.json"
    if not path.exists():
        return None
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"])


def _distance(bench: Bench, record: CaseRecord, folder: Path) -> float | None:
    """Root mean square difference from the golden's frames; the largest there is where the shapes differ."""
    if record.generation is None or not (folder / record.generation.clip).exists():
        return None
    golden = bench.context.store.find(bench.context.runner.name, bench.form)[0]
    golden_frames, run_frames = (
        read_clip(golden.open_part("clip")).frames,
        read_clip(folder / record.generation.clip).frames,
    )
    if golden_frames.shape != run_frames.shape:
        return 255.0
    return float(np.sqrt(np.mean((golden_frames.astype(np.float64) - run_frames) ** 2)))


def read_results(path: Path, code: str) -> dict[str, Result]:
    """Runs of this code so far, by id; a line that was cut off is left out."""
    rows: dict[str, Result] = {}
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = Result.model_validate_json(line)
        except ValueError:
            continue
        if row.code == code:
            rows[row.id] = row
    return rows


def interleaved(entries: Iterable[Entry]) -> list[Entry]:
    """Entries so that any beginning of the list holds every kind in its proportion."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.kind, []).append(entry)
    placed = [
        ((place + 0.5) / len(group), entry.id, entry) for group in groups.values() for place, entry in enumerate(group)
    ]
    return [entry for _, _, entry in sorted(placed, key=lambda row: row[:2])]
