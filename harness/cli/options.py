"""Options that several commands have, each defined once: its flag, its help text and its type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from harness.errors import InvalidCaseError
from harness.text import has_words


class _FlagsWithoutType:
    """Help that shows flags without a type: typer would print ``<bool>`` beside each."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, ``--help`` included."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the class that is mixed in
        for parameter in parameters:
            if getattr(parameter, "is_bool_flag", False):
                parameter.metavar = ""
        return parameters


class _Command(_FlagsWithoutType, TyperCommand):
    def invoke(self, ctx: Any) -> Any:
        """Run the command; an integer that its function returns is the exit code."""
        code = super().invoke(ctx)
        if isinstance(code, int):
            raise typer.Exit(code)
        return code


class _Group(_FlagsWithoutType, TyperGroup):
    pass


class Commands(typer.Typer):
    """A group of commands, with the arguments of ``typer.Typer``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[..., Any]:
        """Return a decorator that registers a function as a command, by default under its own name."""
        return super().command(name, cls=_Command, **settings)


_RUNNER: Final = "name of a profile in runners/, such as b200; `goldens` takes a glob"
_CASE: Final = "id of a case; `goldens` takes a glob, `regenerate` takes several"
_FILE: Final = "regenerate: a case file (default: all of cases/, may be repeated); lock: the lock file"
_HISTORY: Final = "history.json of measured times; plan: or a folder of records, may be repeated"
_OUT: Final = "file or folder to write"

Root = Annotated[Path, typer.Option("--root", help="root of the project")]
Runner = Annotated[str, typer.Option("--runner", help=_RUNNER)]
OptionalRunner = Annotated[str | None, typer.Option("--runner", help=_RUNNER)]
RunnerMark = Annotated[str, typer.Option("--runner", "-m", help=_RUNNER)]
"""``-m`` too, as in ``pytest -m b200``."""
OneCase = Annotated[str, typer.Option("--case", help=_CASE)]
SeveralCases = Annotated[list[str] | None, typer.Option("--case", help=_CASE)]
Author = Annotated[str, typer.Option("--author", help="who decides; default: git's user.name, else the login name")]
_REASON: Final = "why; kept with the change"


def _check_reason(text: str) -> str:
    """Refuse a reason without a word, such as the ``...`` of a printed command; an option that is left out is empty.

    Raises:
        InvalidCaseError: ``text`` is given and holds no letter and no digit.
    """
    if text and not has_words(text):
        raise InvalidCaseError(
            f"--reason {text!r} holds no word, and it is kept with the change",
            remedy="write why, such as --reason 'the triangle moves right, as asked'",
        )
    return text


Reason = Annotated[str, typer.Option("--reason", help=_REASON, callback=_check_reason)]
RunId = Annotated[str, typer.Option("--run-id", help="name of the run's folder; a run of that name is continued")]
Runs = Annotated[Path, typer.Option("--runs", help="folder of runs")]
HistoryStore = Annotated[Path, typer.Option("--store", help="the history of runs, an SQLite file")]
Goldens = Annotated[Path, typer.Option("--goldens", help="the goldens folder")]
Replace = Annotated[bool, typer.Option("--replace", help="drop goldens that only the other side accepts")]
CaseFiles = Annotated[list[Path] | None, typer.Option("--file", help=_FILE)]
LockFile = Annotated[Path, typer.Option("--file", help=_FILE)]
Out = Annotated[Path, typer.Option("--out", help=_OUT)]
OptionalOut = Annotated[Path | None, typer.Option("--out", help=_OUT)]
Check = Annotated[bool, typer.Option("--check", help="compare and write nothing; fails if there is a difference")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Everything = Annotated[bool, typer.Option("--all", help="every pending candidate")]
Artifact = Annotated[
    Path | None,
    typer.Option(
        "--from", help="a downloaded CI artifact instead of .quantgate: a folder; `accept` also takes its zip"
    ),
]
Transformer = Annotated[
    str | None, typer.Option("--transformer", help="override of the high-noise expert; `none` removes the case's")
]
Transformer2 = Annotated[
    str | None, typer.Option("--transformer-2", help="override of the low-noise expert; `none` removes the case's")
]
Perf = Annotated[
    bool, typer.Option("--perf", help="times and memory only: `regenerate` makes baselines, `history` lists changes")
]
Github = Annotated[bool, typer.Option("--github", help="also write the job summary and the job's outputs")]
_REPO: Final = "owner/name of the repository on GitHub, or of the dataset of goldens"
Repo = Annotated[str, typer.Option("--repo", envvar="GITHUB_REPOSITORY", help=_REPO)]
DatasetRepo = Annotated[str, typer.Option("--repo", help=_REPO)]
_AGAINST: Final = "compare with this: a checkpoint (inspect) or a commit (plan)"
Against = Annotated[str | None, typer.Option("--against", help=_AGAINST)]
_BASE: Final = "inspect: the BF16 checkpoint that it was quantized from; ci propose: the branch to propose to"
_BRANCH: Final = "ci comment: pull-request/<number>; ci propose: the new branch"
Histories = Annotated[list[Path] | None, typer.Option("--history", help=_HISTORY)]
OptionalHistory = Annotated[Path | None, typer.Option("--history", help=_HISTORY)]
OriginalCheckpoint = Annotated[str | None, typer.Option("--base", help=_BASE)]
TargetBranch = Annotated[str, typer.Option("--base", help=_BASE)]
CommentBranch = Annotated[str, typer.Option("--branch", envvar="GITHUB_REF_NAME", help=_BRANCH)]
NewBranch = Annotated[str, typer.Option("--branch", help=_BRANCH)]
