"""Accept a candidate: golden, limits and pin change together, or none of them does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.definitions.case import Case
from harness.definitions.loading import load_cases
from harness.definitions.request import request_of
from harness.errors import GoldenError, QuantgateError
from harness.frames.clip import read_clip
from harness.goldens.artifact import LoadedCandidate, take
from harness.goldens.folder import SHORT, FolderStore
from harness.goldens.golden import Golden, check_frames, require_writable
from harness.goldens.hub import Addition, HubStore
from harness.goldens.journal import Hook, Transaction, committing
from harness.goldens.limits import Fate, limits_after
from harness.goldens.pending import RECORD, choose, part_files, read_candidate
from harness.goldens.refusing import (
    ALL,
    NOTHING,
    Allow,
    Similarity,
    changes_of,
    refuse_far,
    refuse_loose,
    refuse_loss,
    refuse_request,
    refuse_sick,
    refuse_unseen,
    vouched,
)
from harness.goldens.store import CONFIG_FILE, GoldenStore, RoutedStore, open_store, read_config
from harness.goldens.workspace import Workspace
from harness.project import Project, case_files
from harness.records.base import Json
from harness.records.candidate import CANDIDATE_FILE, Candidate
from harness.records.golden import CLIP, Accepted, AcceptedIndex, GoldenManifest
from harness.records.limits import LimitFile
from harness.text import has_words


@dataclass(frozen=True)
class Acceptance:
    """The changes that accepting made.

    Attributes:
        manifest: manifest of the new golden.
        digest: digest of the new golden.
        replaced: digests that are no longer accepted.
        limits: fate of the case's limits.
        changes: changes of limits that came with the candidate: old and new value, a line each.
        changed: files and folders to commit, relative to the repository's root.
        recovered: sentences on an earlier, interrupted command that was finished or undone first.
    """

    manifest: GoldenManifest
    digest: str
    replaced: tuple[str, ...]
    limits: Fate
    changed: tuple[str, ...]
    changes: tuple[str, ...] = ()
    recovered: tuple[str, ...] = ()


def accept(
    workspace: Workspace,
    case: str,
    *,
    reason: str,
    author: str,
    runner: str = "",
    source: Path | None = None,
    also: bool = False,
    over: bool = False,
    request: Mapping[str, Json] | None = None,
    extra: Mapping[Path, bytes] | None = None,
    loosen_limits: bool = False,
    allow: Allow = NOTHING,
    similarity: Similarity | None = None,
    hook: Hook = lambda _step: None,
) -> Acceptance:
    """Make a candidate the golden of its case. Needs no GPU: the identity is that of the run that made the candidate.

    Args:
        workspace: the project.
        case: id of the case.
        reason: why this output is right.
        author: name of the person who accepts.
        runner: required if there are candidates of several runners.
        source: a downloaded CI artifact, folder or zip; ``None``: the pending candidate of this checkout.
        also: accept it beside the present goldens (a bistable case) instead of replacing one.
        over: accept it in place of all present goldens, even if it was compared with others or they cannot be
            read any more.
        request: the case's present request, if the caller has it; a candidate of another request is refused, since
            it would be stale at once.
        extra: further files that change with it, such as the checkpoint lock.
        loosen_limits: take limits that came with the candidate although they gate less than the committed ones.
        allow: refusals that the person overrides.
        similarity: returns the mean SSIM of two clip files; ``None``: the distance to the goldens is not checked.
        hook: called at every step; for tests.

    Raises:
        GoldenError: there is no such candidate, it was changed or damaged, it was judged against other goldens than the
            accepted ones, its clip differs from its header, limits that came with it let more through than the
            committed ones, ``Allow`` does not override a refusal, or an interrupted command cannot be finished.
            Nothing was changed.
        InfraError: a file cannot be written, or the upload to the hub failed. Nothing was changed that a run can see.
    """
    if not has_words(reason):
        raise GoldenError("a golden is accepted with a reason", place=case, remedy="write why: --reason '...'")
    if also and over:
        raise GoldenError("--also keeps the present goldens, --over drops them", place=case, remedy="leave one out")
    with committing(workspace, f"accept {case}: {reason}", hook) as transaction:
        proposal = _load_proposal(workspace, case, runner, source, transaction.folder / "artifact")
        refuse_request(proposal.candidate, request, allow)
        refuse_sick(proposal, allow)
        refuse_unseen(workspace, proposal, source, allow)
        if loosen_limits:
            proposal = replace(proposal, candidate=vouched(proposal.candidate, author, reason))
        else:
            refuse_loose(proposal.candidate, workspace.limits(proposal.candidate.runner, proposal.candidate.case))
        return _accept(
            workspace,
            transaction,
            proposal,
            reason=reason,
            author=author,
            also=also,
            over=over,
            extra=extra or {},
            allow=allow,
            similarity=similarity,
        )


def install(
    workspace: Workspace,
    candidate: Candidate,
    files: Mapping[str, Path],
    *,
    reason: str,
    author: str,
    also: bool = False,
    beside: Sequence[tuple[Candidate, Mapping[str, Path]]] = (),
) -> Acceptance:
    """Accept a candidate that was never pending: for a command that measures golden and limits in one run.

    Args and errors as for :func:`accept`; ``candidate.limits`` become the case's limits, for all goldens that are
    accepted then.

    Args:
        also: keep the present goldens; otherwise they are replaced.
        beside: further candidates that become goldens in the same step (a bistable case), each with its files.
    """
    with committing(workspace, f"install {candidate.runner}/{candidate.case}: {reason}") as transaction:
        return _accept(
            workspace,
            transaction,
            LoadedCandidate(candidate, dict(files)),
            reason=reason,
            author=author,
            also=also,
            over=not also,
            extra={},
            allow=ALL,
            similarity=None,
            beside=[LoadedCandidate(other, dict(paths)) for other, paths in beside],
        )


def _load_proposal(workspace: Workspace, case: str, runner: str, source: Path | None, scratch: Path) -> LoadedCandidate:
    if source is not None:
        return take(source, case, runner, scratch)
    folder = choose(workspace, case, runner)
    candidate = read_candidate(folder)
    if (candidate.runner, candidate.case) != (folder.parent.name, folder.name):
        raise GoldenError(f"it belongs to {candidate.runner}/{candidate.case}", place=str(folder / CANDIDATE_FILE))
    return LoadedCandidate(candidate, part_files(folder, candidate))


def _accept(
    workspace: Workspace,
    transaction: Transaction,
    proposal: LoadedCandidate,
    *,
    reason: str,
    author: str,
    also: bool,
    over: bool,
    extra: Mapping[Path, bytes],
    allow: Allow,
    similarity: Similarity | None,
    beside: Sequence[LoadedCandidate] = (),
) -> Acceptance:
    candidate = proposal.candidate
    runner, case = candidate.runner, candidate.case
    store = _store_of(open_store(workspace.goldens), runner)
    before = store.index(runner, case)
    if CLIP in candidate.parts:
        check_frames(proposal.files[CLIP], candidate.shape, remedy="run the case again, and accept its candidate")
    if also:
        # With --also nothing is replaced, so the goldens that the run was judged against do not matter.
        _check_beside(proposal, store)
    elif not over:
        _check_base(candidate, before)
    manifest = _manifest(candidate, before, reason=reason, author=author)
    files = {name: path for name, path in proposal.files.items() if name in manifest.parts}
    entry = Accepted(digest=manifest.digest(), reason=reason, author=author, accepted=manifest.created)
    remaining = _remaining_goldens(candidate, before, store, also, over)
    additions = [
        Addition(made, {name: path for name, path in entry.files.items() if name in made.parts})
        for entry in beside
        if (made := _manifest(entry.candidate, before, reason=reason, author=author))
    ]
    for addition in additions:
        digest = addition.manifest.digest()
        remaining.append(Accepted(digest=digest, reason=reason, author=author, accepted=addition.manifest.created))
    after = AcceptedIndex(case=case, runner=runner, goldens=(*remaining, entry))
    limit_path = workspace.limits(runner, case)
    still = [golden.digest for golden in remaining]
    if similarity is not None:
        # With --over the goldens are replaced even if they are damaged, so unreadable ones are skipped.
        refuse_far(proposal, _readable(store, before, over), still, similarity, allow)
    changes = changes_of(candidate, limit_path)
    limits = limits_after(manifest, candidate.limits, limit_path, remaining=still)
    if limits.fate == "removed":
        refuse_loss(candidate, LimitFile.read(limit_path), limit_path.relative_to(workspace.root), allow)
    changed: list[Path] = []
    # A folder store joins the transaction; a hub is outside of it, so its upload comes first and the pin joins instead.
    if isinstance(store, FolderStore):
        # every golden of the command is a step of its own, and each step knows the lists that the others leave
        first = len(remaining) - len(additions) + 1
        lists = [
            after.model_copy(update={"goldens": after.goldens[: first + place]}) for place in range(len(additions))
        ]
        steps = [*additions, Addition(manifest, files)]
        for place, (addition, part) in enumerate(zip(steps, [*lists, after], strict=True)):
            previous = lists[place - 1] if place else None
            later = (*lists[place + 1 :], after) if place < len(lists) else ()
            transaction.install(store, addition.manifest, addition.files, part, before=previous, later=later)
            if place < len(lists):
                changed.append(store.folder(runner, case, addition.manifest.digest()))
        changed += [store.folder(runner, case, manifest.digest()), store.index_path(runner, case)]
    else:
        changed.append(_publish(workspace, transaction, store, [*additions, Addition(manifest, files)], after))
    if limits.fate != "none":
        transaction.write(limit_path, limits.limits.to_json().encode() if limits.limits is not None else None)
        changed.append(limit_path)
    for path, data in extra.items():
        transaction.write(path, data)
        changed.append(path)
    # The seal is recorded, so that a newer candidate in the same place is not deleted.
    transaction.discard(workspace.pending(runner, case), candidate.seal)
    return Acceptance(
        manifest=manifest,
        digest=manifest.digest(),
        replaced=tuple(digest for digest in before.digests() if digest not in still),
        limits=limits.fate,
        changed=tuple(_shown(path, workspace.root) for path in changed),
        changes=changes,
        recovered=transaction.recovered,
    )


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _publish(
    workspace: Workspace,
    transaction: Transaction,
    store: HubStore,
    additions: Sequence[Addition],
    after: AcceptedIndex,
) -> Path:
    """Upload now, pin with the rest: a commit that is not pinned changes no run, so an interruption has no effect."""
    # The pin is written last: check that it can be before the slow upload.
    require_writable(workspace.goldens / CONFIG_FILE)
    title = f"Accept {after.runner}/{after.case}"
    revision = store.publish(additions, [after], message=f"{title}: {additions[-1].manifest.reason}"[:200])
    config = read_config(workspace.goldens)
    if config.hub is None:  # the hub store was opened from this file, so it held a pin a moment ago
        raise GoldenError("store.json changed meanwhile", place=str(workspace.goldens / CONFIG_FILE))
    pinned = config.model_copy(update={"hub": config.hub.model_copy(update={"revision": revision})})
    path = workspace.goldens / CONFIG_FILE
    transaction.write(path, pinned.to_json().encode())
    return path


def _store_of(store: GoldenStore, runner: str) -> FolderStore | HubStore:
    routed = store.route(runner) if isinstance(store, RoutedStore) else store
    if not isinstance(routed, FolderStore | HubStore):
        raise GoldenError("this store cannot be accepted into", place=routed.origin)
    return routed


def _readable(store: GoldenStore, before: AcceptedIndex, over: bool) -> Iterator[Golden]:
    """Yield the accepted goldens. With ``over``, skip those that cannot be read: they are replaced in any case."""
    for digest in before.digests():
        try:
            yield store.get(before.runner, before.case, digest)
        except GoldenError:
            if not over:
                raise


def _check_base(candidate: Candidate, before: AcceptedIndex) -> None:
    """Raise unless the run was judged against an accepted golden, or without a golden while none is accepted.

    A golden that a person accepted after the run must not be replaced.
    """
    accepted, judged = before.digests(), candidate.golden
    if judged in accepted or (judged is None and not accepted):
        return
    now = [digest[:SHORT] for digest in accepted] or "none"
    raise GoldenError(
        f"the candidate was judged against {judged[:SHORT] if judged else 'no golden'}, "
        f"and the case accepts {now} by now: it was accepted already, or somebody accepted another one",
        place=f"{candidate.runner}/{candidate.case}",
        remedy="run the case again; or add --also to accept it beside those, or --over to accept it in place of all",
    )


def _check_beside(proposal: LoadedCandidate, store: GoldenStore) -> None:
    """Refuse a further golden of another configuration, or with the same pixels as an accepted golden."""
    candidate = proposal.candidate
    pair = f"{candidate.runner}/{candidate.case}"
    for golden in store.find(candidate.runner, candidate.case):
        if golden.manifest.identity.digest() != candidate.identity.digest():
            raise GoldenError(
                f"golden {golden.digest[:SHORT]} is of another configuration, so both cannot be right",
                place=pair,
                remedy="accept without --also, in its place",
            )
        if CLIP in golden.manifest.parts and CLIP in proposal.files and _same_pixels(golden, proposal.files[CLIP]):
            raise GoldenError(f"golden {golden.digest[:SHORT]} holds the same clip already", place=pair)


def _same_pixels(golden: Golden, clip: Path) -> bool:
    """Compare decoded frames: two clip files of one video may differ in the order of their metadata."""
    return read_clip(golden.open_part(CLIP)).digest == read_clip(clip).digest


def _remaining_goldens(
    candidate: Candidate, before: AcceptedIndex, store: GoldenStore, also: bool, over: bool
) -> list[Accepted]:
    """Return the goldens that stay accepted beside the candidate.

    All with ``also``, none with ``over``, otherwise the others of the candidate's identity (a bistable case).
    """
    if also or over:
        return list(before.goldens) if also else []
    others = [entry for entry in before.goldens if entry.digest != candidate.golden]
    identity = candidate.identity.digest()
    return [
        entry
        for entry in others
        if store.get(before.runner, before.case, entry.digest).manifest.identity.digest() == identity
    ]


def _manifest(candidate: Candidate, before: AcceptedIndex, *, reason: str, author: str) -> GoldenManifest:
    # The record describes the run that made the candidate; it is no part of the reference.
    parts = {name: part for name, part in candidate.parts.items() if name != RECORD}
    return GoldenManifest(
        case=candidate.case,
        runner=candidate.runner,
        identity=candidate.identity,
        parts=parts,
        shape=candidate.shape,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        author=author,
        reason=reason,
        provenance=candidate.provenance,
        previous=candidate.golden or (before.goldens[-1].digest if before.goldens else None),
    )


# Read the present state of a case whose candidate is accepted: its request, and the lock of its checkpoints.


@dataclass(frozen=True)
class Present:
    """A case as it is written now.

    Attributes:
        request: the request; ``None`` if the repository has no such case.
        extra: files that change with the golden: the lock, if the case's checkpoints have changed since.
        notes: sentences for the person who accepts.
    """

    request: Mapping[str, Json] | None = None
    extra: Mapping[Path, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def present_cases(root: Path) -> dict[str, Case]:
    """Return every case as it is written now, by id. Raises ``InvalidCaseError`` for a wrong case file."""
    return {entry.case.id: entry.case for entry in load_cases(case_files(root), root)}


def present_case(root: Path, case_id: str, cases: Mapping[str, Case] | None = None) -> Present:
    """Return the present state of a case.

    Args:
        root: the repository's root, absolute.
        case_id: id of the case.
        cases: all cases, if the caller has them; by default the case files are read.

    Raises:
        InvalidCaseError: the case files, or the lock, cannot be read.
    """
    case = (present_cases(root) if cases is None else cases).get(case_id)
    if case is None:
        return Present(notes=(f"note: no case file has a case {case_id}",))
    extra, notes = _lock(root, case)
    return Present(request_of(case), extra, notes)


def present_requests(root: Path) -> dict[str, Mapping[str, Json]]:
    """Return the present request of every case, by case id. Raises ``InvalidCaseError`` for a wrong case file."""
    return {entry.case.id: request_of(entry.case) for entry in load_cases(case_files(root), root)}


def _lock(root: Path, case: Case) -> tuple[dict[Path, bytes], tuple[str, ...]]:
    from harness.inspector.lock import LOCK_NAME, make_lock, read_lock

    path = Project(root).cases / LOCK_NAME
    if not path.exists():
        return {}, ()
    lock = read_lock(path)
    try:
        now, unlocked = make_lock([case], root, lock)
    except QuantgateError as error:
        return {}, (f"note: the lock stays as it is: {error.message}; quantgate lock",)
    notes = tuple(f"note: not locked: {sentence}" for sentence in unlocked)
    recorded = now.cases.get(case.id, {})
    if lock.cases.get(case.id, {}) == recorded or not recorded:
        return {}, notes
    cases = dict(sorted({**lock.cases, case.id: recorded}.items()))
    return {path: lock.model_copy(update={"cases": cases}).to_json().encode()}, notes
