"""``python -m benchmarks.storm``: attack the parts that must hold, print trials and failures; exit code 1 on a failure.

Five kinds of trial, each drawn from the seed and its number:

- ``kills``: a writer is killed, stopped by Ctrl-C, or has a failing disk; the old or the new content stays, and the
  next command leaves no file of the killed command;
- ``inputs``: a file of any kind is damaged or replaced by a pipe, a folder, a device; reading it ends in a value or in
  one sentence, in bounded time and memory, and the file stays;
- ``fields``: hostile text in the fields of a record does nothing in a page, Markdown, JUnit and the terminal;
- ``needles``: a secret, in any form, reaches no file and no output;
- ``artifacts``: a poisoned artifact or shard is refused, changes nothing outside and makes nothing green.

``--resume FILE`` keeps each result in a file, and a later call continues there. ``--only inputs`` runs one kind.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.storm import artifacts, fields, inputs, kills, needles
from benchmarks.storm.trial import Attack, Result, run_trial

KINDS: dict[str, tuple[Attack, int]] = {
    "inputs": (inputs.attack, 72),
    "kills": (kills.attack, 8),
    "needles": (needles.attack, 8),
    "artifacts": (artifacts.attack, 7),
    "fields": (fields.attack, 5),
}
"""Attack and share in percent of the trials of each kind."""
MEMORY = 4 << 30
"""Bytes of address space that a trial may use beside that of the imported libraries."""
PROGRESS_SECONDS = 20.0


def trials(total: int, only: str = "") -> list[tuple[str, int]]:
    """Return kind and number of each trial, the kinds mixed, so that an interrupted storm has some of each."""
    if only:
        return [(only, number) for number in range(total)]
    counts = {kind: -(-total * share // 100) for kind, (_, share) in KINDS.items()}
    planned = [((number + 0.5) / count, kind, number) for kind, count in counts.items() for number in range(count)]
    return [(kind, number) for _, kind, number in sorted(planned)]


def storm(wanted: Iterable[tuple[str, int]], seed: int, workers: int) -> Iterator[Result]:
    """Run trials in ``workers`` processes, and yield each result when it is there."""
    if workers == 1:
        yield from (_one((kind, number, seed)) for kind, number in wanted)
        return
    jobs = ((kind, number, seed) for kind, number in wanted)
    with multiprocessing.get_context("fork").Pool(workers, _bound_memory) as pool:
        yield from pool.imap_unordered(_one, jobs, chunksize=4)


def _bound_memory() -> None:
    gc.freeze()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def _one(job: tuple[str, int, int]) -> Result:
    kind, number, seed = job
    return run_trial(kind, KINDS[kind][0], seed, number)


def table(results: Iterable[Result]) -> list[str]:
    """Return the counts, a line per kind and a line of the sum."""
    rows: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        rows[result.kind].append(result)
    lines = [f"{'kind':<12}{'trials':>8}{'attacks':>9}{'failures':>10}"]
    for kind in KINDS:
        of_kind = rows.get(kind, [])
        attacks = len({result.message for result in of_kind})
        lines.append(f"{kind:<12}{len(of_kind):>8}{attacks:>9}{sum(bool(row.failure) for row in of_kind):>10}")
    every = [result for of_kind in rows.values() for result in of_kind]
    attacks = len({(result.kind, result.message) for result in every})
    return [*lines, f"{'sum':<12}{len(every):>8}{attacks:>9}{sum(bool(row.failure) for row in every):>10}"]


def main(arguments: list[str] | None = None) -> int:
    """Run the storm; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=tuple(KINDS), default="")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after this time; --resume continues")
    parser.add_argument("--resume", type=Path, help="file with the results so far; it is continued")
    given = parser.parse_args(arguments)
    planned = trials(given.trials, given.only)
    done = _kept(given.resume, given.seed)
    wanted = [job for job in planned if job not in done]
    results = [done[job] for job in planned if job in done]
    started = shown = time.monotonic()
    for result in storm(wanted, given.seed, given.workers):
        results.append(result)
        if given.resume is not None:
            with given.resume.open("a", encoding="utf-8") as out:
                out.write(json.dumps([given.seed, *result]) + "\n")
        if result.failure:
            print(f"FAILED {result.kind} {result.number}: {result.message}: {result.failure}", flush=True)
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            print(f"{len(results)} of {len(planned)} trials", flush=True)
        if given.seconds and time.monotonic() - started > given.seconds:
            break
    print("\n".join(table(results)))
    print(f"seed {given.seed}, {len(results)} of {len(planned)} trials")
    return int(any(row.failure for row in results) or len(results) < len(planned))


def _kept(path: Path | None, seed: int) -> dict[tuple[str, int], Result]:
    """Read the results of earlier calls with the same seed."""
    if path is None or not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("]")]
    results = [Result(*row[1:]) for row in rows if row[0] == seed]
    return {(result.kind, result.number): result for result in results}


if __name__ == "__main__":
    sys.exit(main())
