"""Which evidence shows a fault, and which cause is named: ``python -m benchmarks.attribution``.

Breaks a running engine of the tiny Wan2.2 in every way of `benchmarks.attribution_faults`, judges each run, and then
names the cause from the run's folder on disk alone; `benchmarks.attribution_images` lists the faults of a model that
takes a picture. Peers' rules judge the same frames. With ``--folder``, a later call of the same code runs only the
faults that are left. Exit code 1: a target is missed; 2: the budget is spent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.attribution_faults import BENIGN, FRESH, Fault, dev_list, every_linear, sent
from benchmarks.attribution_images import healthy_runs, image_list
from benchmarks.attribution_setup import FAULTS, ROOT, Bench, broken_checkpoint, prepare
from benchmarks.peers import rules_without_weights
from benchmarks.peers.base import PeerRule
from harness.frames.clip import Clip, read_clip
from harness.judge.attribution import attribute
from harness.records.attribution import Attribution, Experiments
from harness.records.base import write_text_atomic
from harness.records.case_record import CaseRecord
from harness.records.probe import PROBES, SKETCHES
from harness.records.run_folder import EXPERIMENTS_FILE, RECORD_FILE
from harness.session.conductor import Session

TARGET = 0.95


@dataclass(frozen=True)
class Row:
    """What became of one fault."""

    fault: Fault
    record: CaseRecord
    attribution: Attribution | None
    seen: frozenset[str]
    """Of ``probe``, ``trace``, ``sketch``, ``pixels``, ``other``."""
    peers: dict[str, bool]
    """Whether each peer's rule passes the clip; empty where none was generated."""
    seconds: float

    @property
    def flagged(self) -> bool:
        """Whether anything that gates was found."""
        return any(finding.gating for finding in self.record.verdict.findings)

    @property
    def right(self) -> bool:
        """Whether every cause was named at its place; for a benign change, whether nothing was flagged."""
        if not self.fault.cause:
            return not self.flagged
        if self.attribution is None or self.attribution.cause is None:
            return False
        named = (self.attribution.cause, *self.attribution.also)
        codes = all(any(cause.code in wanted.split("|") for cause in named) for wanted in self.fault.cause)
        wanted_first = {code for wanted in self.fault.cause for code in wanted.split("|")}
        first = self.attribution.cause.code in wanted_first
        placed = not self.fault.place or any(self.fault.place in cause.place for cause in named)
        return codes and first and placed

    @property
    def named(self) -> str:
        """The cause in a word."""
        if self.attribution is None or self.attribution.cause is None:
            return "-" if not self.flagged else "none named"
        first = self.attribution.cause
        more = f" (+{', '.join(cause.code for cause in self.attribution.also)})" if self.attribution.also else ""
        return f"{first.code} @ {first.place}{more}" if first.place else first.code + more

    def write(self, path: Path) -> None:
        """Keep the row, so that a later call need not run the fault again."""
        data = {
            "record": self.record.model_dump(mode="json"),
            "attribution": self.attribution and self.attribution.model_dump(mode="json"),
            "peers": self.peers,
            "seconds": self.seconds,
        }
        write_text_atomic(path, json.dumps(data))


def attribute_folder(folder: Path) -> Attribution:
    """Return the attribution that follows from the files of one case in a run's folder."""
    record, path = CaseRecord.read(folder / RECORD_FILE), folder / EXPERIMENTS_FILE
    results = Experiments.read(path).results if path.exists() else ()
    return attribute(record, results)


def kept_row(path: Path, fault: Fault) -> Row | None:
    """Return the row that an earlier call kept at ``path``, or ``None`` if there is none."""
    if not path.exists():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    record = CaseRecord.model_validate(data["record"])
    attribution = Attribution.model_validate(data["attribution"]) if data["attribution"] else None
    return Row(fault, record, attribution, seen_by(record), data["peers"], data["seconds"])


def place_of_row(folder: Path, fault: Fault, code: str) -> Path:
    """Return the file of a fault's row: its name depends on the fault and on the code that judged it."""
    key = hashlib.sha256(f"{code} {fault.name} {fault.specs} {fault.checkpoint} {fault.generates}".encode()).hexdigest()
    return folder / "rows" / f"{key[:24]}.json"


def code_digest() -> str:
    """Return a digest of the sources of ``harness``, ``benchmarks`` and ``tiny``, which decide a row."""
    digest = hashlib.sha256()
    for room in ("harness", "benchmarks", "tiny"):
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def seen_by(record: CaseRecord) -> frozenset[str]:
    """Which kind of evidence has a finding."""
    kinds = set()
    for finding in record.verdict.findings:
        if finding.code in ("first_divergence", "first_diverging_step"):
            kinds.add("sketch")
        elif not finding.gating:
            continue
        elif finding.stage in ("probe", "trace"):
            kinds.add(finding.stage)
        elif finding.stage in ("frames", "sanity"):
            kinds.add("pixels")
        else:
            kinds.add("other")
    return frozenset(kinds)


def run(bench: Bench, sessions: dict[bool, Session], fault: Fault, number: int) -> Row:
    """Break, run, judge, attribute from disk, mend."""
    session = sessions[fault.generates]
    if fault.name == FRESH:
        session.pool.discard(bench.located.case)
    FAULTS.set(sent(fault))
    began = time.monotonic()
    try:
        folder_name = f"{number:03d}"
        session.context = replace(session.context, run=f"{bench.context.run}/{folder_name}")
        located = broken_checkpoint(bench, fault.checkpoint) if fault.checkpoint else bench.located
        finished = session.run_case(located, fault.name, lambda _event: None)
    finally:
        FAULTS.set([])
    record = finished.record
    failed = record.attribution is not None
    peers = {}
    if record.generation is not None:
        golden, clip = read_clip(bench.golden_clip), read_clip(finished.folder / record.generation.clip)
        peers = {rule.name: passes(rule, golden, clip) for rule in rules_without_weights()}
    attributed = attribute_folder(finished.folder) if failed else None
    return Row(fault, record, attributed, seen_by(record), peers, time.monotonic() - began)


def passes(rule: PeerRule, golden: Clip, clip: Clip) -> bool:
    """A peer's rule; where it needs larger frames than the tiny model makes, on frames enlarged three times."""
    try:
        return rule.judge(golden, clip).passed
    except ValueError:
        larger = [Clip(item.frames.repeat(3, axis=1).repeat(3, axis=2)) for item in (golden, clip)]
        return rule.judge(*larger).passed


def show(row: Row) -> None:
    """One line."""
    marks = "".join(letter if word in row.seen else "." for word, letter in zip(SEEN, "PTSXo", strict=True))
    missed = sum(row.peers.values())
    peers = f"{missed}/{len(row.peers)}" if row.peers else "-"
    verdict = "ok " if row.right else "NO "
    print(
        f"  {verdict} {row.fault.name:<44} {marks}  {peers:>5}  {row.named[:70]:<70} {row.seconds:5.1f} s", flush=True
    )
    if not row.right:
        for finding in row.record.verdict.findings:
            if finding.gating:
                print(f"        {finding.stage}/{finding.code}: {finding.message[:140]}")


SEEN = ("probe", "trace", "sketch", "pixels", "other")


def table(rows: Iterable[Row]) -> None:
    """Confusion: wanted cause against the cause that was named first."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        wanted = "+".join(row.fault.cause) or "(benign)"
        named = row.attribution.cause.code if row.attribution and row.attribution.cause else "(none)"
        counts[wanted, named if row.flagged else "(clean)"] += 1
    print("\nconfusion (wanted -> named first: count)")
    for (wanted, named), count in sorted(counts.items()):
        print(f"  {wanted:<48} -> {named:<26} {count}")


def overlap(rows: list[Row]) -> None:
    """What pixels alone have: faults whose worst SSIM is one that benign runs have too, and what peers pass."""
    benign = [value for row in rows if not row.fault.cause and (value := _ssim(row)) is not None]
    faulty = [(value, row.fault.name) for row in rows if row.fault.cause and (value := _ssim(row)) is not None]
    if benign and faulty:
        hidden = [name for value, name in faulty if value >= min(benign)]
        print(f"\npixels alone: worst-frame SSIM of benign runs goes down to {min(benign):.4f}")
        print(f"  {len(hidden)} of {len(faulty)} faults are no worse: {'; '.join(hidden) or 'none'}")
    quiet = [row.fault.name for row in rows if row.fault.cause and row.record.comparison and "pixels" not in row.seen]
    print(f"  {len(quiet)} passed every limit on frames: {'; '.join(quiet) or 'none'}")
    judged = [row for row in rows if row.peers]
    for name in judged[0].peers if judged else ():
        passed = sum(row.peers[name] for row in judged if row.fault.cause)
        alarms = sum(not row.peers[name] for row in judged if not row.fault.cause)
        total = sum(1 for row in judged if row.fault.cause)
        print(f"  {name:<34} passes {passed:>2} of {total} faults, alarms on {alarms} of {len(judged) - total} benign")


def _ssim(row: Row) -> float | None:
    comparison = row.record.comparison
    similarity = comparison.get("ssim") if comparison is not None else None
    return similarity.worst if similarity is not None else None


def costs(bench: Bench, rows: list[Row]) -> None:
    """Probe time against generation time, size of the golden."""
    healthy = [row.record for row in rows if not row.fault.cause and row.record.generation is not None]
    if healthy:
        probe = median(record.timing.probe for record in healthy)
        whole = median(record.generation.generate_seconds for record in healthy if record.generation)
        share = probe / whole
        print(f"\nprobe {probe:.2f} s, generation {whole:.2f} s: ratio {share:.2f} (medians of {len(healthy)} runs)")
    parts = {name: part.bytes for name, part in bench.golden.manifest.parts.items()}
    bare = sum(size for name, size in parts.items() if name not in (PROBES, SKETCHES))
    listed = ", ".join(f"{name} {size / 1e3:.0f} kB" for name, size in sorted(parts.items()))
    print(f"golden: {listed}; {bare / 1e3:.0f} kB without probes and sketches, {sum(parts.values()) / 1e3:.0f} kB with")


def score(rows: list[Row], label: str) -> float:
    """Share of faults whose cause is right."""
    faults = [row for row in rows if row.fault.cause]
    right, seen = sum(row.right for row in faults), sum(row.flagged for row in faults)
    share = right / max(1, len(faults))
    print(f"{label}: cause right for {right} of {len(faults)} ({share:.1%}); seen at all: {seen} of {len(faults)}")
    return share


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--format", choices=("nvfp4", "fp8"), default="nvfp4")
    parser.add_argument(
        "--matmul", choices=("auto", "dequantize", "emulate"), default="auto", help="emulate: activations quantized too"
    )
    parser.add_argument("--model", choices=("t2v", "i2v", "ti2v"), default="t2v", help="the embedded model")
    parser.add_argument("--folder", type=Path, help="where runs go; kept, and its golden used again")
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--no-linears", action="store_true", help="leave out the swap in every single Linear")
    parser.add_argument("--held-out", action="store_true", help="the held-out faults, and nothing else")
    parser.add_argument("--healthy", type=int, default=0, help="further healthy runs, disturbed by their last bit")
    parser.add_argument(
        "--budget-seconds", type=float, default=float("inf"), help="stop then (exit code 2); call again to go on"
    )
    parser.add_argument("--every", type=int, default=1, help="of the single Linears every N-th")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.budget_seconds
    folder = options.folder or Path(tempfile.mkdtemp(prefix="attribution-"))
    bench = prepare(folder, options.device, options.format, options.matmul, options.model)
    print(f"{options.format} on {options.device}, matmul {options.matmul}; records in {folder}; code {bench.code}")
    if options.held_out:
        from benchmarks.attribution_held_out import FROZEN_AT, held_out

        print(f"held-out faults, written after the rules were frozen at {FROZEN_AT}")
        faults: list[Fault] = [*held_out(options.format)]
    else:
        listed = dev_list() if options.model == "t2v" else image_list(options.model)
        faults = [*BENIGN, *_of_format(listed, options.format), *healthy_runs(options.healthy)]
        if options.format == "nvfp4" and not options.no_linears:
            faults += list(every_linear(bench.quantized))[:: options.every]
    faults = [fault for fault in faults if options.only in fault.name]
    sessions = {wanted: Session(replace(bench.context, stop_on_probe=not wanted)) for wanted in (False, True)}
    sessions[False].pool = sessions[True].pool
    print(
        "      fault"
        + " " * 40
        + "seen   peers  cause named     (P probe, T trace, S sketch, X pixels, o other; peers: rules that pass it)"
    )
    rows: list[Row] = []
    code = code_digest()
    try:
        for number, fault in enumerate(faults):
            place = place_of_row(folder, fault, code)
            row = kept_row(place, fault)
            if row is None and time.monotonic() > deadline:
                print(f"the budget is spent: {len(faults) - len(rows)} of {len(faults)} faults are left")
                return 2
            if row is None:
                row = run(bench, sessions, fault, number)
                row.write(place)
            rows.append(row)
            show(rows[-1])
    finally:
        sessions[True].close()
    table(rows)
    overlap(rows)
    costs(bench, rows)
    single = [row for row in rows if not row.fault.generates]
    print()
    alarms = [row.fault.name for row in rows if not row.fault.cause and row.flagged]
    print(f"benign flagged: {len(alarms)} of {sum(not row.fault.cause for row in rows)} {alarms}")
    if single:
        score(single, "swap in every single Linear")
        score([row for row in rows if row.fault.generates], "the rest of the list")
    whole = score(rows, "all")
    summary = {row.fault.name: {"right": row.right, "named": row.named, "seen": sorted(row.seen)} for row in rows}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return int(bool(alarms) or whole < TARGET)


def _of_format(faults: Iterable[Fault], form: str) -> list[Fault]:
    """Without the faults that only packed FP4 can have."""
    only_fp4 = {"nibble", "swizzled", "rolled", "stale"}
    return [
        fault
        for fault in faults
        if form == "nvfp4" or (fault.specs and not any(spec["kind"] in only_fp4 for spec in fault.specs))
    ]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
