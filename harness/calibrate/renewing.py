"""Add the evidence that this version takes to accepted goldens, from a finished run: ``quantgate goldens renew``.

Each version of the gate may take more evidence with a run (latents, probes of norms, weights in memory). A golden of an
older version lacks it, so the checks that need it are silent. If a run passed and its frames are the golden's, value by
value, then the rest of what it left belongs to these frames as well: golden, list and limits are written again under
the golden's new name. The frames keep their bytes, and nothing is measured again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.calibrate.samples import Result
from harness.frames.clip import read_clip
from harness.goldens.folder import SHORT, FolderStore
from harness.goldens.golden import Golden
from harness.goldens.journal import committing
from harness.goldens.maintenance import Select, everything
from harness.goldens.pending import candidate_of
from harness.goldens.workspace import Workspace
from harness.outcomes import Outcome
from harness.reading import read_text
from harness.records.golden import CLIP, Accepted, AcceptedIndex, GoldenManifest
from harness.records.limits import LimitFile
from harness.records.probe import PROBES, SKETCHES
from harness.session.stages import parts_of


@dataclass
class Renewed:
    """Result of one command.

    Attributes:
        goldens: ``runner/case/old -> new: parts`` per golden that was renewed.
        skipped: a sentence per case that was not, with the reason.
        changed: files and folders to commit, absolute.
    """

    goldens: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)


def renew(
    workspace: Workspace, results: Iterable[Result], *, author: str, reason: str, select: Select = everything
) -> Renewed:
    """Renew the goldens that runs are equal to.

    Args:
        workspace: the project.
        results: finished runs of one runner; their frames were read and fit their records.
        author: name of the person who renews.
        reason: why; it becomes the reason of the new manifests. The list keeps the reason of each acceptance.
        select: returns whether a runner and case are wanted.

    Raises:
        GoldenError: a list or a golden is damaged.
        InfraError: a file cannot be written. Goldens renewed before stay, and the next call continues.
    """
    store, renewed = FolderStore(workspace.goldens), Renewed()
    for result in results:
        record = result.record
        # a negative control is compared with the golden of another case, and has none of its own
        if select(record.runner, record.case) and not record.request.get("golden_of"):
            _renew_case(workspace, store, result, author, reason, renewed)
    return renewed


def _renew_case(
    workspace: Workspace, store: FolderStore, result: Result, author: str, reason: str, renewed: Renewed
) -> None:
    record = result.record
    name = f"{record.runner}/{record.case}"
    goldens = store.find(record.runner, record.case)
    # a run that failed, or that waits for a person, shows frames whose evidence nobody vouched for
    if record.verdict.outcome is not Outcome.PASS or record.generation is None or record.identity is None:
        renewed.skipped.append(f"{name}: its run ended {record.verdict.outcome.value}, and only one that passed renews")
        return
    golden = next((golden for golden in goldens if _equal(golden, result)), None)
    if golden is None:
        renewed.skipped.append(f"{name}: the run's frames are not those of an accepted golden, value by value")
        return
    files = _files(golden, result)
    candidate = candidate_of(record, files)
    before = golden.manifest.parts
    parts = {**candidate.parts, CLIP: before[CLIP]}
    news = sorted(part for part in parts if part not in before or parts[part].sha256 != before[part].sha256)
    if not news:
        renewed.skipped.append(f"{name}: it holds everything that the run left")
        return
    fields = golden.manifest.model_dump() | {
        "parts": parts, "previous": golden.digest, "provenance": candidate.provenance, "author": author,
        "reason": reason, "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    new = store.add(GoldenManifest.model_validate(fields), files)
    index = store.index(record.runner, record.case)
    entries = [
        entry.model_copy(update={"digest": new.digest}) if entry.digest == golden.digest else entry
        for entry in index.goldens
    ]
    renewed.changed += replace_goldens(workspace, store, index, entries, {golden.digest: new.digest})
    renewed.changed += [store.folder(record.runner, record.case, digest) for digest in (golden.digest, new.digest)]
    renewed.goldens.append(f"{name}/{golden.digest[:SHORT]} -> {new.digest[:SHORT]}: {', '.join(news)}")


def _equal(golden: Golden, result: Result) -> bool:
    """Return whether a run and a golden have one identity and the same frames. Decodes the golden's clip."""
    record, manifest = result.record, golden.manifest
    if record.identity is None or record.generation is None or CLIP not in manifest.parts:
        return False
    same = record.identity.digest() == manifest.identity.digest()
    return same and read_clip(golden.open_part(CLIP)).digest == record.generation.clip_sha256


def _files(golden: Golden, result: Result) -> dict[str, Path]:
    """Return the parts of the new golden: the run's, except for the frames, which keep their bytes."""
    old = {part: golden.open_part(part) for part in golden.manifest.parts}
    new = {part: path for part, path in parts_of(result.record, result.folder).items() if part != CLIP}
    if PROBES in old and PROBES in new and old[PROBES].read_bytes() != new[PROBES].read_bytes():
        # limits of probes were measured on the golden's recording, and sketches fit one recording only
        new = {part: path for part, path in new.items() if part not in (PROBES, SKETCHES)}
    return {**old, **new}


def replace_goldens(
    workspace: Workspace,
    store: FolderStore,
    index: AcceptedIndex,
    entries: Iterable[Accepted],
    renamed: Mapping[str, str],
) -> list[Path]:
    """Put goldens that the store holds already in the place of others of the same frames: list and limits together.

    Args:
        workspace: the project.
        store: holds the old and the new goldens of the case.
        index: the case's present list.
        entries: its new list.
        renamed: new digest by old digest, of goldens and, if they changed, of identities.

    Returns:
        The files that were written. The old goldens are removed.
    """
    limits, listed = workspace.limits(index.runner, index.case), store.index_path(index.runner, index.case)
    written = [listed]
    with committing(workspace, f"replace goldens of {index.runner}/{index.case}") as transaction:
        transaction.write(listed, index.model_copy(update={"goldens": tuple(entries)}).to_json().encode())
        if limits.exists():
            transaction.write(limits, _renamed(read_text(limits), renamed).encode())
            written.append(limits)
    for digest in index.digests():
        if digest in renamed:
            store.remove(index.runner, index.case, digest)
    return written


def _renamed(text: str, renamed: Mapping[str, str]) -> str:
    """The text of a limit file with other digests. A seal that fitted fits again; one that was broken stays broken."""
    was_sealed = LimitFile.parse(text, "limits").is_sealed
    for old, new in renamed.items():
        text = text.replace(old, new)
    limits = LimitFile.parse(text, "limits")
    return limits.to_json() if was_sealed else text
