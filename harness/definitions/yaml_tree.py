"""Parse YAML text as a tree of plain values with the place of each value.

Syntax comes from libyaml's event stream, which is many times as fast as a parser in Python, or from ruamel.yaml's if
PyYAML lacks it. Scalars are read by the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema),
so ``1e-3`` is a number and ``on`` is a string. Features that a case file does not need are refused: tags, merge keys,
several documents, duplicate keys, and values past the bounds below (an alias counts as often as it is expanded).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from harness.reading import UnreadableError, read_bytes, reason
from harness.text import one_line

MAX_BYTES: Final = 4 * 2**20
MAX_DEPTH: Final = 32
MAX_NODES: Final = 1_000_000
_SHOWN_PROBLEMS: Final = 5
MAX_NUMBER: Final = 64
"""Most characters of a number; a longer number is no sensible setting."""

_BREAKS: Final = "\x85\u2028\u2029"
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, bool | float | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class Problem(NamedTuple):
    """One fault, and its line (from 1)."""

    line: int
    message: str


class YamlError(Exception):
    """The text is no YAML, or uses features that a case file may not use."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        # a hostile file has a problem in each of its thousands of lines; `problems` keeps all of them
        shown = [f"line {line}: {one_line(message)}" for line, message in problems[:_SHOWN_PROBLEMS]]
        more = len(problems) - len(shown)
        super().__init__("; ".join(shown) + (f"; and {more} more" if more else ""))


class Node:
    """A value and its place in the text.

    Attributes:
        value: ``dict[str, Node]``, ``list[Node]``, or a scalar (str, int, float, bool, None).
        line: of the value, from 1.
        keys: of a mapping, the line of each key.
        span: of a scalar, its first and one past its last character in the text.
        size: how many values it holds, itself included, every alias expanded.
        text: source text of a scalar.
    """

    __slots__ = ("keys", "line", "size", "span", "text", "value")

    def __init__(self, value: Any, line: int, span: tuple[int, int] = (0, 0)) -> None:
        self.value, self.line, self.span, self.size = value, line, span, 1
        self.keys: dict[str, int] = {}
        self.text: str | None = None

    def plain(self) -> Any:
        """Return the value without positions; every call returns new containers."""
        value = self.value
        if type(value) is dict:
            return {key: node.plain() for key, node in value.items()}
        if type(value) is list:
            return [node.plain() for node in value]
        return value

    def find(self, path: tuple[str | int, ...]) -> int | None:
        """Return the line of the key (or list entry) at ``path``, or ``None`` if this tree has no such path."""
        node, line = self, self.line
        for step in path:
            if isinstance(node.value, dict) and step in node.value:
                line, node = node.keys[str(step)], node.value[str(step)]
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.line
            else:
                return None
        return line

    def written(self, path: tuple[str | int, ...]) -> str | None:
        """Return the text of the scalar at ``path`` as it was written, or ``None`` if there is no scalar."""
        if self.find(path) is None:
            return None
        node = self
        for step in path:
            node = node.value[step]
        return node.text


def parse(text: str) -> Node:
    """Read one YAML document.

    Raises:
        YamlError: with every duplicate key, or with the single fault that ended parsing.
    """
    if len(text) > MAX_BYTES:
        raise YamlError([Problem(1, f"larger than {MAX_BYTES // 2**20} MiB; split the file")])
    # libyaml counts these as line breaks, so that the lines in later messages would be wrong
    for mark in _BREAKS:
        if mark in text:
            line = text.count("\n", 0, text.index(mark)) + 1
            raise YamlError(
                [Problem(line, f'U+{ord(mark):04X} is a line break in YAML 1.1 only; write "\\u{ord(mark):04x}"')]
            )
    return _Composer(events(text)).document()


def scalar(text: str) -> str | int | float | bool | None:
    """Convert a plain (unquoted) scalar by the YAML 1.2 core schema: ``1e-3`` is a number, ``on`` is text.

    Raises:
        ValueError: a number of more than ``MAX_NUMBER`` characters.
    """
    if text in _WORDS:
        return _WORDS[text]
    # most scalars are words, and need none of the patterns below
    if text[0] not in "+-.0123456789":
        return text
    if _INT.fullmatch(text):
        _bounded(text)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        _bounded(text)
        return float(text)
    return text


def _bounded(text: str) -> None:
    if len(text) > MAX_NUMBER:
        raise ValueError(f"a number of {len(text)} characters")


def events(text: str, *, fast: bool = True) -> Iterator[Any]:
    """Yield YAML events, from libyaml if it is installed and ``fast``; ruamel's have the same names and fields.

    Raises:
        YamlError: a syntax error, with its line.
    """
    import yaml
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        if fast and hasattr(yaml, "CSafeLoader"):
            yield from yaml.parse(text, Loader=yaml.CSafeLoader)
        else:
            yield from YAML(typ="safe", pure=True).parse(text)
    except (yaml.MarkedYAMLError, MarkedYAMLError) as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(part) for part in (error.problem, error.context) if part)
        if mark is not None and _is_tab(text, mark.line):
            problem = "a tab indents this line; YAML takes spaces only"
        raise YamlError([Problem(mark.line + 1 if mark else 1, problem or "not YAML")]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position if isinstance(error.position, int) else 0) + 1
        raise YamlError([Problem(line, f"a character that YAML does not allow: {error.reason}")]) from None
    except (yaml.YAMLError, YAMLError, RecursionError, ValueError, OverflowError) as error:
        raise YamlError([Problem(1, str(error).splitlines()[0] if str(error) else type(error).__name__)]) from None


def _is_tab(text: str, line: int) -> bool:
    """Return whether the indent of a line holds a tab."""
    lines = text.splitlines()
    text_of_line = lines[line] if line < len(lines) else ""
    return "\t" in text_of_line[: len(text_of_line) - len(text_of_line.lstrip())]


class _Composer:
    """Compose nodes from events, by recursive descent bounded by ``MAX_DEPTH``."""

    def __init__(self, stream: Iterator[Any]) -> None:
        self._events = stream
        self._anchors: dict[str, Node] = {}
        self._duplicates: list[Problem] = []

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            match type(event).__name__:
                case "StreamStartEvent" | "DocumentStartEvent" | "DocumentEndEvent" | "StreamEndEvent":
                    continue
            if root is not None:
                _fail(event, "a second document; one file holds one")
            root = self._node(event, 1)
        if self._duplicates:
            raise YamlError(self._duplicates)
        return root if root is not None else Node(None, 1)

    def _node(self, event: Any, depth: int) -> Node:
        kind = type(event).__name__
        if kind == "AliasEvent":
            if event.anchor not in self._anchors:
                _fail(event, f"alias *{event.anchor} names no anchor above it")
            # the node is shared; `size` counts it once per use, which bounds nested aliases
            return self._anchors[event.anchor]
        if depth > MAX_DEPTH:
            _fail(event, f"nested deeper than {MAX_DEPTH} levels")
        if event.tag is not None:
            _fail(event, f"tag {event.tag}: a case file has no tags; write the plain value")
        if kind == "ScalarEvent":
            node = self._scalar(event)
        elif kind == "MappingStartEvent":
            node = self._mapping(event, depth)
        else:
            node = self._sequence(event, depth)
        if node.size > MAX_NODES:
            _fail(event, f"more than {MAX_NODES} values once aliases are expanded")
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any) -> Node:
        mark = event.start_mark
        value = event.value
        # a quoted scalar is not implicit and stays text
        if event.implicit[0]:
            try:
                value = scalar(value)
            except ValueError as error:
                _fail(event, str(error))
        node = Node(value, mark.line + 1, (mark.index, event.end_mark.index))
        node.text = str(event.value)
        return node

    def _sequence(self, event: Any, depth: int) -> Node:
        items: list[Node] = []
        node = Node(items, event.start_mark.line + 1)
        for inner in self._events:
            if type(inner).__name__ == "SequenceEndEvent":
                break
            child = self._node(inner, depth + 1)
            node.size += child.size
            items.append(child)
        return node

    def _mapping(self, event: Any, depth: int) -> Node:
        items: dict[str, Node] = {}
        node = Node(items, event.start_mark.line + 1)
        for inner in self._events:
            if type(inner).__name__ == "MappingEndEvent":
                break
            key, line = self._key(inner), inner.start_mark.line + 1
            child = self._node(next(self._events), depth + 1)
            if key in items:
                # parsing goes on, so that all duplicate keys are reported at once
                first = node.keys[key]
                self._duplicates.append(Problem(line, f"duplicate key {key!r}; it is on line {first} already"))
                continue
            node.size += child.size
            items[key], node.keys[key] = child, line
        return node

    def _key(self, event: Any) -> str:
        if type(event).__name__ != "ScalarEvent":
            _fail(event, "a key must be a plain word")
        if event.value == "<<" and event.implicit[0]:
            _fail(event, "YAML 1.2 has no merge key `<<`; put what cases share under `defaults`")
        return str(event.value)


def _fail(event: Any, message: str) -> NoReturn:
    raise YamlError([Problem(event.start_mark.line + 1, message)])


# Reading files that a person wrote.


def read_text(path: Path) -> str:
    """Read the text of a file of at most ``MAX_BYTES``.

    Raises:
        YamlError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise YamlError([Problem(1, f"larger than {MAX_BYTES // 2**20} MiB; split the file")])
        # the shared reader refuses pipes and devices, which would block or never end
        data = read_bytes(path, limit=MAX_BYTES)
    except (OSError, UnreadableError) as error:
        raise YamlError([Problem(1, f"cannot be read: {reason(error)}")]) from None
    try:
        # editors on Windows write a byte order mark
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError([Problem(line, f"not UTF-8: byte 0x{data[error.start]:02x}")]) from None


def shown(path: Path, root: Path) -> Path:
    """Return ``path`` as it is shown and recorded: relative to ``root`` if it lies inside."""
    whole = path if path.is_absolute() else root / path
    return whole.relative_to(root) if whole.is_relative_to(root) else path
