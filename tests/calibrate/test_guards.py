"""When regeneration is refused, and how to get past that."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from builders import make_case

from harness.calibrate.guards import refuse_dirty, refuse_in_ci, refuse_other_identity
from harness.errors import GoldenError, InvalidCaseError
from harness.git import dirty_files
from harness.goldens.matching import Match, MatchKind
from harness.records.identity import FieldChange


@pytest.mark.parametrize("value", ["true", "1", "yes"])
def test_in_ci_only_where_it_is_said(value: str) -> None:
    with pytest.raises(InvalidCaseError, match="not regenerated in CI"):
        refuse_in_ci({"CI": value}, allowed=False)
    refuse_in_ci({"CI": value}, allowed=True)


@pytest.mark.parametrize("environ", [{}, {"CI": ""}, {"CI": "false"}])
def test_outside_ci(environ: dict[str, str]) -> None:
    refuse_in_ci(environ, allowed=False)


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def test_a_dirty_tree(tmp_path: Path) -> None:
    assert dirty_files(tmp_path) == (), "no repository, nothing to be dirty"
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    (tmp_path / "old name.py").write_text("something long enough to be the same file after a rename\n")
    assert dirty_files(tmp_path) == ("code.py", "old name.py"), "untracked code counts"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    assert refuse_dirty(tmp_path, allowed=False) == ()
    for made in ("goldens/cpu/a.json", "thresholds/cpu/a.json", "runs/1/record.json"):
        (tmp_path / made).parent.mkdir(parents=True)
        (tmp_path / made).write_text("{}")
    assert refuse_dirty(tmp_path, allowed=False) == (), "what regeneration writes itself"
    (tmp_path / "code.py").write_text("2\n")
    git(tmp_path, "mv", "old name.py", "new name.py")
    with pytest.raises(InvalidCaseError, match=r"has changes.*code\.py"):
        refuse_dirty(tmp_path, allowed=False)
    assert set(refuse_dirty(tmp_path, allowed=True)) == {"code.py", "new name.py"}


@pytest.mark.parametrize("kind", [MatchKind.WEIGHTS, MatchKind.HARDWARE, MatchKind.REQUEST])
def test_a_golden_of_another_identity(kind: MatchKind) -> None:
    class Stored:
        digest = "a" * 64

    change = FieldChange(identity_class="weights", field="transformer/x", golden="1", run="2")
    match = Match(kind, (Stored(),), (change,))  # type: ignore[arg-type]
    case = make_case()
    with pytest.raises(GoldenError, match=r"another identity \(.*transformer/x\)"):
        refuse_other_identity(match, case, "a.yaml:1", replace=False, reason="")
    with pytest.raises(GoldenError):
        refuse_other_identity(match, case, "a.yaml:1", replace=True, reason=" ")
    refuse_other_identity(match, case, "a.yaml:1", replace=True, reason="retrained")
    refuse_other_identity(Match(MatchKind.MISSING, (), ()), case, "a.yaml:1", replace=False, reason="")
