"""Every link of the documentation leads somewhere, every command can be typed, and each verdict has its section."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import textwrap
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.main import get_command

from harness.cli.app import app
from harness.definitions.causes import CAUSES
from harness.definitions.loading import load_cases
from harness.errors import KINDS
from harness.frames.causes import EXPLANATIONS
from harness.outcomes import RULES
from harness.plugin import options

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
START = re.compile(r"(?:^|[\s(&|;])(?:\.venv/bin/)?((?:quantgate|python3? -m|pytest) (?=[-\w]).*)")
END = re.compile(r"\s#\s|\s{3,}|──|&&|\s\|\s(?!--)|;\s|…|\s>\s?\w")
"""Whatever ends a command within its line: a comment, the column of an explanation, another command."""
PYTEST_OPTIONS = {"--collect-only", "--dist", "--ignore", "--ignore-glob", "--junitxml", "--maxfail", "--pdb"}
"""Long options of pytest and pytest-xdist that pages name."""


COMMAND_LINE: Any = get_command(app)


class Command(NamedTuple):
    """One command that a page names."""

    place: str
    """``docs/cases.md:12``: the first line of its block or paragraph."""
    line: str

    @property
    def words(self) -> list[str]:
        """The command without quotes and the brackets around options that may be left out."""
        return re.sub(r"'[^']*'|\"[^\"]*\"", "TEXT", self.line).translate(str.maketrans("[](),", "     ")).split()

    @property
    def long_options(self) -> list[str]:
        """The long options, without their values."""
        return [option for word in self.words for option in re.findall(r"^--[a-z][a-z0-9-]*", word)]


def tokens(text: str) -> Iterator[Token]:
    """Yield block tokens and their inline children; a child has the lines of its block."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        for child in token.children or ():
            child.map = token.map
            yield child


def links(text: str) -> Iterator[str]:
    """Yield the targets of all links and pictures."""
    for token in tokens(text):
        target = token.attrGet("href") or token.attrGet("src")
        if isinstance(target, str):
            yield target


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    names: list[str] = []
    block = MarkdownIt("commonmark").enable("table").parse(text)
    for opening, inline in itertools.pairwise(block):
        if opening.type == "heading_open":
            words = "".join(child.content for child in inline.children or ())
            names.append(re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-"))
    repeated = {f"{name}-{index}" for name in names for index in range(1, names.count(name))}
    return {*names, *repeated}


def broken_links(text: str, page: Path) -> list[str]:
    """Return the relative links of a page which lead to no file, or to no heading of one."""
    broken = []
    for target in links(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(text if file == page else file.read_text())):
            broken.append(target)
    return broken


def commands(text: str, page: str) -> Iterator[Command]:
    """Yield each ``quantgate``, ``pytest`` and ``python -m`` command in code blocks and code spans."""
    for token in tokens(text):
        if token.type in ("fence", "code_block", "code_inline"):
            whole = token.content.replace("\n", " ") if token.type == "code_inline" else token.content
            place = f"{page}:{(token.map or [0])[0] + 1}"
            for row in re.sub(r"\\\n\s*", " ", whole).splitlines():
                for part in re.split(r"&&|;", row):
                    if start := START.search(part):
                        yield Command(place, END.split(start[1])[0].strip())


def wrong_with(command: Command) -> str:
    """Return why a command cannot be typed, or an empty string."""
    program = command.words[0]
    if program == "quantgate":
        return _wrong_with_quantgate(command)
    if program == "pytest":
        return _unknown(command, declared_by_plugin() | PYTEST_OPTIONS)
    return _wrong_with_module(command)


def _wrong_with_quantgate(command: Command) -> str:
    group = COMMAND_LINE
    words = command.words[1:]
    while hasattr(group, "commands"):
        if not words or words[0].startswith(("-", "...")):
            return _unknown(command, _declared(group))
        names = words.pop(0).split("|")  # quantgate runtime install|list|remove
        if missing := [name for name in names if name not in group.commands]:
            return f"no command {missing[0]}"
        group = group.commands[names[0]]
    return _unknown(command, _declared(group))


def _declared(command: Any) -> set[str]:
    return {"--help", *(name for parameter in command.params for name in parameter.opts)}


def _unknown(command: Command, declared: set[str]) -> str:
    return ", ".join(option for option in command.long_options if option not in declared)


def declared_by_plugin() -> set[str]:
    """Return the long options that our plugin adds to pytest."""
    names: set[str] = set()

    class Recorder:
        def getgroup(self, *_: str) -> Recorder:
            return self

        def addoption(self, name: str, **_: Any) -> None:
            names.add(name)

        def addini(self, *_: Any, **__: Any) -> None:
            return None

    options.declare(Recorder())  # type: ignore[arg-type]
    return names


def _wrong_with_module(command: Command) -> str:
    name = command.words[2]
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        return f"no module {name}"
    if not name.startswith(("benchmarks", "tiny", "harness")):
        return ""
    origin = Path(spec.origin)
    files = sorted(origin.parent.glob("*.py")) if origin.name == "__init__.py" else [origin]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    if not any("__main__" in ast.unparse(tree) for tree in trees) and not (origin.parent / "__main__.py").exists():
        return f"{name} does nothing when it is run"
    strings = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return _unknown(command, {text for text in strings if isinstance(text, str)})


ALL = [command for page, text in PAGES.items() for command in commands(text, page)]


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: str) -> None:
    assert broken_links(PAGES[page], ROOT / page) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_typed(page: str) -> None:
    wrong = {command: wrong_with(command) for command in ALL if command.place.startswith(f"{page}:")}
    assert {command: why for command, why in wrong.items() if why} == {}


def test_the_readers_of_links_and_commands_do_find_mistakes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One heading, `with code`\n")
    text = "[a](other.md#one-heading-with-code) [b](absent.md) [c](other.md#absent) ![d](no.png) [e](https://x.y/z)"
    assert broken_links(text, page) == ["absent.md", "other.md#absent", "no.png"]
    text = """`quantgate cases --nothing` and `quantgate nothing`, `python -m benchmarks.house --absent`, `quantgate`

```
export A=1 && quantgate accept CASE [--from ZIP | --also] --reason '--not-an-option'   in words --no-option
pytest --plan=plan.json --shrad 2/4     runs a shard
python -m benchmarks.nothing
```
"""
    found = {command.line: wrong_with(command) for command in commands(text, "page.md")}
    assert found == {
        "quantgate cases --nothing": "--nothing",
        "quantgate nothing": "no command nothing",
        "python -m benchmarks.house --absent": "--absent",
        "quantgate accept CASE [--from ZIP | --also] --reason '--not-an-option'": "",
        "pytest --plan=plan.json --shrad 2/4": "--shrad",
        "python -m benchmarks.nothing": "no module benchmarks.nothing",
    }


def test_every_page_is_reached_from_the_readme() -> None:
    reached, left = set[str](), ["README.md"]
    while left:
        page = left.pop()
        reached.add(page)
        for target in links(PAGES[page]):
            name = (ROOT / page).parent.joinpath(target.partition("#")[0]).resolve()
            linked = name.relative_to(ROOT).as_posix() if name.is_relative_to(ROOT) else ""
            if linked in PAGES and linked not in reached:
                left.append(linked)
    assert sorted(set(PAGES) - reached) == []


def test_commands_are_read_from_all_places_that_have_them() -> None:
    assert {"README.md", "docs/lane.md", "docs/benchmarks.md"} <= {command.place.split(":")[0] for command in ALL}
    assert len(ALL) > 100


def test_the_readme_is_short_and_its_case_loads(tmp_path: Path) -> None:
    assert len(PAGES["README.md"].splitlines()) < 150
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGES["README.md"], re.DOTALL)
    path = tmp_path / "cases" / "hello.yaml"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(example))
    assert [located.case.id for located in load_cases([path], tmp_path, runners=["cpu"])] == ["hello"]


def test_every_verdict_has_its_section_and_its_row() -> None:
    text = PAGES["docs/troubleshooting.md"]
    names = [str(outcome) for outcome in RULES]
    assert set(names) <= anchors(text)
    assert {row[1] for row in re.finditer(r"^\| \[`(\w+)`\]", text, re.MULTILINE)} == set(names)


def test_every_cause_in_the_tables_of_troubleshooting_exists() -> None:
    text = PAGES["docs/troubleshooting.md"]
    column = [cell for row in re.findall(r"^\| (.*) \|$", text, re.MULTILINE) for cell in row.split(" | ")[:2]]
    patterns = {name for cell in column if "," in cell or "`" in cell for name in re.findall(r"`([a-z_0-9*]+)`", cell)}
    known = {
        *CAUSES,
        *EXPLANATIONS,
        "unstable",
        *KINDS,
        *map(str, RULES),
        "probe_golden_error_above_limit",
        "inspection",
        "timeouts",
    }
    assert {pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in known)} == set()
    assert {"nibble_order", "scale_*", "limits_missing", "oom"} <= patterns


def test_the_drawing_of_the_layers_is_the_order_that_import_linter_checks() -> None:
    drawn = re.search(r"<!-- layers -->\n```\n(.*?)```", PAGES["docs/architecture.md"], re.DOTALL)
    assert drawn is not None
    rows = [re.split(r"\s{3,}", row)[0].split(" | ") for row in drawn[1].splitlines()]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert rows == [[name.removeprefix("harness.") for name in layer.split(" | ")] for layer in layers]


def test_files_that_the_pages_name_exist() -> None:
    spans = {
        (page, token.content)
        for page, text in PAGES.items()
        for token in tokens(text)
        if token.type == "code_inline"
        and re.fullmatch(r"(harness|benchmarks|tests|tiny|runners|docs)/[\w./-]+", token.content)
    }
    assert len(spans) > 30
    assert sorted(f"{page}: {name}" for page, name in spans if not (ROOT / name).exists()) == []
