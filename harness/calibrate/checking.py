"""Check that cases, goldens and limits fit together and are up to date: ``quantgate regenerate --check``.

Runs nothing and needs no device. It does not prove that the limits are right, only that they belong to the goldens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from harness.definitions.case import Case
from harness.definitions.choosing import Filters
from harness.definitions.loading import load_cases
from harness.definitions.runner import named_runner
from harness.errors import GoldenError, InvalidCaseError
from harness.frames.registry import gating_names
from harness.goldens.folder import FolderStore
from harness.goldens.golden import Golden
from harness.goldens.maintenance import verify
from harness.goldens.store import GoldenStore, open_store
from harness.judge.limits_rule import gates_nothing, of_frames
from harness.limits.edited import load_explained
from harness.limits.stored import limit_paths
from harness.project import Project, case_files
from harness.records.identity import Device
from harness.records.limits import LimitFile
from harness.session.identity import identity_of

NO_FILTERS = Filters()


@dataclass(frozen=True)
class Checked:
    """Result of a check."""

    checked: int
    """Number of pairs of case and runner that have goldens and limits."""
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def check_files(root: Path, filters: Filters = NO_FILTERS, today: date | None = None) -> Checked:
    """Compare the case files, goldens and limits of a repository with each other.

    Args:
        root: the repository's root.
        filters: cases and runners to check; default: all.
        today: date that the expiry of waivers is compared with; default: the present day.

    Raises:
        InvalidCaseError: a case file cannot be read, or the filters match nothing.
    """
    paths = list(dict.fromkeys((*case_files(root), *filters.files)))
    located = {entry.case.id: entry for entry in load_cases(paths, root)}
    cases = {name: entry.case for name, entry in located.items()}
    store, thresholds = open_store(Project(root).goldens), Project(root).thresholds
    stored = set(store.cases())
    limit_pairs = {(path.parent.name, path.stem) for path in limit_paths(thresholds)}
    listed = {(name, case.id) for case in cases.values() for name in case.runners}
    known_pairs = listed | stored | limit_pairs
    if filters.runner and filters.runner not in {name for name, _ in known_pairs}:
        named_runner(Project(root).runners, filters.runner)
    chosen = filters.choose(root, located, known_pairs)
    chosen_ids = {case for _, case in chosen}
    faults = list(_waivers([case for case in cases.values() if case.id in chosen_ids], today or date.today()))
    notes: list[str] = []
    measured = {name for name, case in stored if store.index(name, case).goldens}
    golden_pairs = {pair for pair in stored & chosen if store.index(*pair).goldens}
    limit_pairs &= chosen
    used = {pair for pair in listed & chosen if cases[pair[1]].golden_of is None}
    for name, case_id in sorted((golden_pairs | limit_pairs) - used):
        kinds = [
            kind for kind, pairs in (("golden", golden_pairs), ("limits", limit_pairs)) if (name, case_id) in pairs
        ]
        faults.append(f"{name}/{case_id}: {' and '.join(kinds)} of no case; delete, or bring the case back")
    for name, case_id in sorted((golden_pairs ^ limit_pairs) & used):
        has = "a golden and no limits" if (name, case_id) in golden_pairs else "limits and no golden"
        faults.append(f"{name}/{case_id}: {has}; quantgate regenerate --case {case_id} --runner {name}")
    for name, case_id in sorted(used - golden_pairs - limit_pairs):
        note = f"{name}/{case_id}: not measured yet; quantgate regenerate --case {case_id} --runner {name}"
        # A case inside an installed runtime can be measured only on a machine that has the runtime. Its own run is red
        # until then (`golden_missing`), so this note hides nothing.
        elsewhere = bool(cases[case_id].runtime)
        (faults if name in measured and not elsewhere else notes).append(note)
    whole = sorted(golden_pairs & limit_pairs & used)
    for name, case_id in whole:
        faults += [f"{name}/{case_id}: {fault}" for fault in _pair(cases[case_id], store, thresholds, name)]
    if isinstance(store, FolderStore):
        damaged = verify(store, lambda *pair: pair in chosen)
        faults += [f"{item.name}: {fault}" for item in damaged for fault in item.faults]
        notes += [f"{item.name}: no case accepts it; quantgate goldens gc" for item in damaged if not item.accepted]
    return Checked(len(whole), tuple(faults), tuple(notes))


def _waivers(cases: Iterable[Case], today: date) -> Iterator[str]:
    for case in cases:
        if case.waiver is not None and case.waiver.expires < today:
            yield (
                f"{case.id}: the waiver of {case.waiver.owner} ended on {case.waiver.expires.isoformat()} "
                f"({case.waiver.issue}); repair the case, or have the waiver renewed"
            )


def _pair(case: Case, store: GoldenStore, thresholds: Path, runner: str) -> Iterator[str]:
    """Yield the faults between one case, its goldens and its limits."""
    again = f"quantgate regenerate --case {case.id} --runner {runner}"
    try:
        limits = load_explained(thresholds, runner, case.id)
        goldens = store.find(runner, case.id)
    except (InvalidCaseError, GoldenError) as error:
        yield error.message
        return
    if limits is None:
        return
    if nothing := gates_nothing(of_frames(limits)):
        yield f"{nothing}; {again}"
    golden = next((golden for golden in goldens if golden.digest == limits.golden_digest), None)
    if golden is None:
        accepted = ", ".join(golden.digest[:16] for golden in goldens)
        yield f"the limits are of golden {limits.golden_digest[:16]}, and accepted is {accepted}; {again}"
        return
    yield from _beside(goldens, limits, again)
    yield from _current(case, golden, limits, again)


def _beside(goldens: Sequence[Golden], limits: LimitFile, again: str) -> Iterator[str]:
    """Yield a fault if the limits of a bistable case do not name exactly the goldens that are accepted."""
    covered = {golden.digest for golden in goldens if golden.manifest.identity.digest() == limits.identity_digest}
    for digest in sorted(covered - set(limits.goldens)):
        yield f"the limits do not hold for golden {digest[:16]}, which is accepted beside theirs; {again}"
    for digest in sorted(set(limits.also) - {golden.digest for golden in goldens}):
        yield f"the limits also name golden {digest[:16]}, which is not accepted; {again}"


def _current(case: Case, golden: Golden, limits: LimitFile, again: str) -> Iterator[str]:
    identity = golden.manifest.identity
    if limits.identity_digest != identity.digest():
        of_limits, of_golden = limits.identity_digest[:16], identity.digest()[:16]
        yield f"the limits are of identity {of_limits}, the golden of {of_golden}; {again}"
    nowhere = Device(kind="cpu", name="")
    now = identity_of(case, nowhere, {})
    for verb, before, after in (("asks", identity.request, now.request), ("sets in env", identity.env, now.env)):
        odd = sorted(
            key
            for key in before.keys() | after.keys()
            if before.get(key) != after.get(key) and f"env.{key}" not in identity.subject  # listed as harmless
        )
        if odd:
            rows = ", ".join(odd)
            yield f"the case {verb} something else since its golden was made: {rows}; {again} --replace-golden"
    missing = sorted(set(case.metrics or gating_names()) - {limit.metric for limit in limits.limits})
    if missing:
        yield f"no limit for {', '.join(missing)}; {again}"
    broken = [
        f"{limit.metric} ({sample.run})"
        for limit in limits.limits
        for sample in limit.samples
        if sample.side == "benign" and not limit.admits(sample.value)
    ]
    if broken:
        yield f"healthy samples outside their own limit, so it was changed by hand: {', '.join(broken[:3])}; {again}"
