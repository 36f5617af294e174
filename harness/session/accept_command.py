"""``quantgate accept``. Thin: parse, look the case up as it is written now, call the review."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.definitions.project import project_root
from harness.review.commands import Root, RunnerName, default_author, run_accept
from harness.review.refusing import Allow
from harness.review.workspace import Workspace
from harness.session.similarity import similarity


def accept(
    case: Annotated[str, typer.Argument(help="id of the case")],
    reason: Annotated[str, typer.Option("--reason", help="why this output is right")],
    source: Annotated[Path | None, typer.Option("--from", help="a downloaded CI artifact: folder or zip")] = None,
    runner: RunnerName = "",
    author: Annotated[str, typer.Option("--author", help="default: git's user.name")] = "",
    also: Annotated[bool, typer.Option("--also", help="beside the present goldens: the case is bistable")] = False,
    over: Annotated[bool, typer.Option("--over", help="in place of all present goldens, even unreadable ones")] = False,
    loosen_limits: Annotated[
        bool, typer.Option("--loosen-limits", help="take limits that came along though they gate less than before")
    ] = False,
    drop_limits: Annotated[
        bool, typer.Option("--drop-limits", help="delete limits that were measured for another configuration")
    ] = False,
    another_video: Annotated[
        bool, typer.Option("--another-video", help="take it though it shows another video than the golden it replaces")
    ] = False,
    other_request: Annotated[
        bool, typer.Option("--other-request", help="take it though the case file asks for something else now")
    ] = False,
    failed_sanity: Annotated[
        bool, typer.Option("--failed-sanity", help="take it though its frames are NaN, static, frozen, ...")
    ] = False,
    unseen: Annotated[bool, typer.Option("--unseen", help="take it though no report shows it")] = False,
    root: Root = Path(),
) -> None:
    """Make a candidate the golden of its case."""
    from harness.review.present import present_case

    root = project_root(root)
    now = present_case(root, case)
    for sentence in now.notes:
        typer.echo(sentence)
    run_accept(
        Workspace(root),
        case,
        request=now.request,
        extra=now.extra,
        reason=reason,
        source=source,
        runner=runner,
        author=author or default_author(root),
        also=also,
        over=over,
        loosen_limits=loosen_limits,
        allow=Allow(
            other_request=other_request,
            failed_sanity=failed_sanity,
            unseen=unseen,
            another_video=another_video,
            drop_limits=drop_limits,
        ),
        similarity=similarity,
    )
