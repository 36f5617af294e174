"""Options of one name mean the same in every command: one help text and one type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from harness.cli.app import app


def commands(group: typer.Typer, path: str = "quantgate") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every command of the app and its groups, by its words."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{path} {command.name or command.callback.__name__}", command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance, f"{path} {inner.name}")


def value_type(annotation: object) -> type:
    """The type of one value: of ``list[Path] | None`` it is ``Path``."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0])
    inner = [part for part in get_args(annotation) if part is not type(None)]
    assert len(inner) == 1, annotation
    return value_type(inner[0])


def options_of(callback: Callable[..., Any]) -> Iterator[tuple[str, str, type]]:
    """Flag, help text and type of every option of a command."""
    for name, hint in get_type_hints(callback, include_extras=True).items():
        for info in getattr(hint, "__metadata__", ()):
            if isinstance(info, typer.models.OptionInfo):
                # in Annotated, typer takes the first flag as the default
                flags = [flag for flag in (str(info.default), *(info.param_decls or ())) if flag.startswith("--")]
                flag = flags[0].partition("/")[0] if flags else f"--{name.replace('_', '-')}"
                yield flag, info.help or "", value_type(get_args(hint)[0])


def uses() -> dict[str, dict[tuple[str, type], list[str]]]:
    """Flag to its meanings, and the commands that give it each of them."""
    flags: dict[str, dict[tuple[str, type], list[str]]] = {}
    for words, callback in commands(app):
        for flag, text, kind in options_of(callback):
            flags.setdefault(flag, {}).setdefault((text, kind), []).append(words)
    return flags


def test_options_of_one_name_have_one_help_text_and_one_type() -> None:
    assert {flag: meanings for flag, meanings in uses().items() if len(meanings) > 1} == {}


def test_every_option_has_a_help_text() -> None:
    assert [flag for flag, meanings in uses().items() for text, _ in meanings if not text] == []


def test_the_list_is_complete() -> None:
    flags = uses()
    assert len([words for words, _ in commands(app)]) >= 25
    (root,) = flags["--root"]
    assert root[1] is Path
    assert {"quantgate plan", "quantgate accept", "quantgate goldens renew"} <= set(flags["--root"][root])


def test_another_meaning_is_noticed() -> None:
    def command(runner: Any) -> None:
        """A command of its own mind."""

    command.__annotations__["runner"] = Annotated[int, typer.Option("--runner", help="how many")]
    assert list(options_of(command)) == [("--runner", "how many", int)]
    assert ("how many", int) not in uses()["--runner"]


@pytest.mark.parametrize("words", [(), ("accept",), ("goldens",), ("goldens", "gc"), ("ci", "propose"), ("review",)])
def test_help_shows_flags_without_a_type_and_values_with_theirs(words: tuple[str, ...]) -> None:
    text = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "160"}).output
    assert "--help" in text
    assert "bool" not in text.lower()
    if words == ("accept",):
        assert "<path>" in text
