"""Write what regeneration proposes: golden and limits of a case in one transaction, or limits alone."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.limits import LimitFile
from harness.review.accept import install
from harness.review.journal import Transaction, recover
from harness.review.pending import candidate_of
from harness.review.workspace import Workspace
from harness.session.candidates import parts_of
from harness.session.limit_file import limit_file, loosened
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
        RegenerateError: a limit would let more through than before, or a golden would be replaced, without a reason.
        GoldenError: as ``harness.review.accept.install``.
    """
    new = limit_file(proposal, author, reason or "measured")
    looser = loosened(proposal.old, new)
    case, runner = new.case, new.runner
    if looser and not reason.strip():
        raise RegenerateError(
            "these limits would let more through than before:\n  " + "\n  ".join(looser),
            where=proposal.located.where,
            remedy=f"quantgate regenerate --case {case} --runner {runner} --reason '...', if that is right",
        )
    if proposal.golden is not None:
        target = workspace.limits(runner, case)
        with workspace.locked():
            recover(workspace)
            transaction = Transaction(workspace, f"limits of {runner}/{case}")
            try:
                transaction.write(target, new.to_json().encode())
                transaction.commit()
            except Exception:
                transaction.abandon()
                raise
        return Applied(case, proposal.golden.digest, False, new, (str(target.relative_to(workspace.root)),))
    record, folder = proposal.reference.record, proposal.reference.folder
    files = parts_of(record, folder)
    candidate = candidate_of(record, files, limits=new)
    done = install(workspace, candidate, files, reason=reason or "first golden of this case", author=author)
    written = new.model_copy(update={"golden_digest": done.digest})
    return Applied(case, done.digest, True, written, done.changed)
