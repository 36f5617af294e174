"""Faults and healthy changes of an unseen list, through whole runs: ``python -m benchmarks.unseen``.

Each entry is one run of the embedded NVFP4 or FP8 case against its own golden and measured limits. A JSON line is kept
of every run; a call goes on where the last one stopped, and prints the tables of what there is. Exit code 1: a target
is missed, or entries have no run yet. ``--list`` chooses the list; their results and tables are kept apart.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.unseen.design import Entry
from benchmarks.unseen.result import Result

ROOT = Path(__file__).resolve().parents[2]
RED, RIGHT = 0.97, 0.90
"""Targets: share of faults that are red, and of red faults whose first or second cause is right."""


def code() -> str:
    """Commit of the tree, with a mark where files of ``harness`` or of the list were changed."""

    def git(*arguments: str) -> str:
        return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = "-changed" if git("status", "--porcelain", "harness", "benchmarks/unseen") else ""
    return (git("rev-parse", "HEAD") or "unknown") + changed


def main(arguments: list[str] | None = None) -> int:
    """Run what has no result yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", default="first", choices=("first", "second", "third"), help="which list of entries")
    parser.add_argument("--only", default="", metavar="KIND", help="entries whose kind or id holds this; several: A,B")
    parser.add_argument("--limit", type=int, default=0, help="of the chosen faults the first N, spread over all kinds")
    parser.add_argument("--workers", type=int, default=1, choices=(1, 2), help="2: one process for each format")
    parser.add_argument("--out", type=Path, help="the lines that are kept; default: a file of runs/ per list")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "unseen", help="goldens and records")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after this time")
    parser.add_argument("--label", default="", help="name of the code in the lines, instead of the commit")
    parser.add_argument("--form", choices=("nvfp4", "fp8"), help="one format only")
    parser.add_argument("--score-only", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)

    from benchmarks.unseen.design import FORMS
    from benchmarks.unseen.drive import Job, interleaved, read_results, run_job
    from benchmarks.unseen.faults import faults
    from benchmarks.unseen.healthy import healthy
    from benchmarks.unseen.score import tables
    from benchmarks.unseen.second import second_faults, second_healthy
    from benchmarks.unseen.third import third_faults, third_healthy

    lists = {
        "first": (faults, healthy),
        "second": (second_faults, second_healthy),
        "third": (third_faults, third_healthy),
    }
    name = "unseen.jsonl" if options.list == "first" else f"unseen-{options.list}.jsonl"
    out: Path = options.out or ROOT / "runs" / name
    label = options.label or code()
    wrong, harmless = (
        [
            entry
            for entry in interleaved(entries)
            if any(part in f"{entry.kind} {entry.id}" for part in options.only.split(","))
            and options.form in (None, entry.form)
        ]
        for entries in (make() for make in lists[options.list])
    )
    chosen = [*harmless, *(wrong[: options.limit] if options.limit else wrong)]
    out.parent.mkdir(parents=True, exist_ok=True)
    earlier = read_results(out, label)
    until = time.time() + options.seconds
    # healthy ones among the others: whatever time a call gets, the tables show a cut through the whole list
    todo = [entry for entry in interleaved(chosen) if entry.id not in earlier]
    folder = options.folder / label[:12]
    jobs = [
        Job(form, folder / form, mine, out.resolve(), label, until)
        for form in FORMS
        if (mine := tuple(entry for entry in todo if entry.form == form))
    ]
    if not options.score_only:
        if options.workers == 1:
            for job in jobs:
                run_job(job)
        else:
            with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
                list(pool.map(run_job, jobs))
    earlier = read_results(out, label)
    rows = [(entry, earlier[entry.id]) for entry in chosen if entry.id in earlier]
    print(f"\nlist {options.list}; code {label}; {len(rows)} of {len(chosen)} entries have a run\n")
    print(tables(rows))
    return int(len(rows) < len(chosen) or not _reached(rows))


def _reached(rows: list[tuple[Entry, Result]]) -> bool:
    """Whether the targets are met: faults red and explained, no healthy change red, none stale without reason."""
    faults = [(entry, row) for entry, row in rows if not entry.healthy]
    healthy = [(entry, row) for entry, row in rows if entry.healthy]
    red = [(entry, row) for entry, row in faults if row.red]
    right = sum(row.rank(entry) in (1, 2) for entry, row in red)
    return (
        len(red) >= RED * len(faults)
        and right >= RIGHT * len(red)
        and not any(row.accept_suggested for _, row in faults)
        and not any(row.red or (row.stale and not entry.value_changes) for entry, row in healthy)
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
