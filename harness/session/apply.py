"""Write what regeneration proposes: golden and limits of a case in one transaction, or limits alone."""

from __future__ import annotations

from dataclasses import dataclass

from harness.judge.limit_changes import gates_nothing, loosened, of_frames
from harness.records.limits import LimitFile
from harness.review.accept import install
from harness.review.journal import Transaction, recover
from harness.review.pending import candidate_of
from harness.review.workspace import Workspace
from harness.session.candidates import parts_of
from harness.session.limit_file import limit_file
from harness.session.regenerate import Proposal, RegenerateError


@dataclass(frozen=True)
class Applied:
    """What was written for one case."""

    case: str
    golden: str
    """Digest of the golden that the limits belong to."""
    new_golden: bool
    limits: LimitFile
    changed: tuple[str, ...]
    """Files to commit, relative to the root."""


def apply(workspace: Workspace, proposal: Proposal, *, reason: str, author: str) -> Applied:
    """Write one case.

    Raises:
        RegenerateError: no metric of the frames would gate; or a limit would let more through than before, or a golden
            would be replaced, without a reason.
        GoldenError: as ``harness.review.accept.install``.
    """
    new = limit_file(proposal, author, reason or "measured")
    _refuse_blind(new, proposal.located.where)
    _refuse_unexplained(proposal.old, new, proposal.located.where, reason)
    if proposal.golden is not None:
        return Applied(new.case, proposal.golden.digest, False, new, (_write(workspace, new),))
    record, folder = proposal.reference.record, proposal.reference.folder
    files = parts_of(record, folder)
    candidate = candidate_of(record, files, limits=new)
    done = install(workspace, candidate, files, reason=reason or "first golden of this case", author=author)
    written = new.model_copy(update={"golden_digest": done.digest})
    return Applied(new.case, done.digest, True, written, done.changed)


def apply_again(workspace: Workspace, old: LimitFile, new: LimitFile, *, reason: str) -> str:
    """Write limits that were placed anew from the samples of their own file. Returns the file to commit.

    Raises:
        RegenerateError: no metric of the frames would gate; or a limit would let more through than before, without a
            reason.
    """
    where = str(workspace.limits(new.runner, new.case))
    _refuse_blind(new, where)
    _refuse_unexplained(old, new, where, reason)
    return _write(workspace, new)


def _refuse_blind(new: LimitFile, where: str) -> None:
    if nothing := gates_nothing(of_frames(new)):
        raise RegenerateError(
            nothing,
            where=where,
            remedy="make healthy runs of the case stray less (fewer steps, other `metrics`); or place limits by them "
            f"alone: quantgate regenerate --case {new.case} --runner {new.runner} --controls none",
        )


def _refuse_unexplained(old: LimitFile | None, new: LimitFile, where: str, reason: str) -> None:
    looser = loosened(old, new)
    if looser and not reason.strip():
        raise RegenerateError(
            "these limits would let more through than before:\n  " + "\n  ".join(looser),
            where=where,
            remedy=f"quantgate regenerate --case {new.case} --runner {new.runner} --reason '...', if that is right",
        )


def _write(workspace: Workspace, new: LimitFile) -> str:
    target = workspace.limits(new.runner, new.case)
    with workspace.locked():
        recover(workspace)
        transaction = Transaction(workspace, f"limits of {new.runner}/{new.case}")
        try:
            transaction.write(target, new.to_json().encode())
            transaction.commit()
        except Exception:
            transaction.abandon()
            raise
    return str(target.relative_to(workspace.root))
