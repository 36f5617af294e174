"""The YAML reader against ruamel.yaml, and against input that wants to hurt it."""

from __future__ import annotations

import io
import math
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML, YAMLError

from harness.definitions.yaml_tree import MAX_BYTES, MAX_DEPTH, YamlError, events, parse, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("on", "on"),
        ("no", "no"),
        ("016", 16),
        ("0o17", 15),
        ("0x1F", 31),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("2030-01-01", "2030-01-01"),
        ("True", True),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
        (".5", 0.5),
        ("1.", 1.0),
        ("+7", 7),
        ("-", "-"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars_by_the_core_schema(text, value):
    read = scalar(text)
    assert read == value
    assert type(read) is type(value)


NUMBERS = st.from_regex(r"[-+]?(0o[0-7]+|0x[0-9a-f]+|[0-9]{0,5}\.?[0-9]{0,5}([eE][-+]?[0-9]{1,2})?)", fullmatch=True)
WORDS = st.sampled_from(
    ["true", "True", "TRUE", "false", "null", "Null", "~", "on", "off", "yes", "No", ".inf", "-.inf"]
)


@given(st.one_of(NUMBERS.filter(lambda text: any(c.isdigit() for c in text)), WORDS))
@example("0.5e1")
def test_numbers_and_words_are_read_as_ruamel_reads_them(text):
    expected = YAML(typ="safe", pure=True).load(f"key: {text}\n")["key"]
    read = parse(f"key: {text}\n").plain()["key"]
    if re.match(r"[-+]0[ox]", text):
        assert read == text  # the core schema has no sign before 0o and 0x; ruamel allows one
        return
    if re.match(r"[-+]?\.[0-9]+[eE]", text):
        assert read == float(text)  # the core schema has an exponent after .5; ruamel reads text
        return
    assert read == expected or (read != read and expected != expected)
    assert type(read) is type(expected)


def test_not_a_number_is_one():
    assert math.isnan(scalar(".nan"))  # type: ignore[arg-type]


KEYS = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)
# A plain ?x inside brackets is written by ruamel as a scalar, and read by ruamel and libyaml alike as a key.
# A plain :x there is 1.2, and refused by libyaml. U+0085 and its like are refused by us.
TEXT = st.text(max_size=20).filter(lambda text: not set(text) & set("?\x85\u2028\u2029") and text[:1] != ":")
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


def _read_back(yaml, text):
    try:
        return yaml.load(text)
    except YAMLError:
        return None


@given(st.dictionaries(KEYS, TREES, max_size=5), st.booleans())
def test_what_ruamel_writes_is_read_back(tree, flow):
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = flow
    out = io.StringIO()
    yaml.dump({"": 0, **tree}, out)
    assume(_read_back(yaml, out.getvalue()) == {"": 0, **tree})  # what ruamel itself cannot read says nothing about us
    assert parse(out.getvalue()).plain() == {"": 0, **tree}


@given(st.text(st.sampled_from("ab:-?#!|>'\"%@`{}[], \n\t01~"), max_size=40))
def test_both_parsers_give_the_same_events_or_both_refuse(text):
    """Where PyYAML was built without libyaml, ruamel parses: the same files must then be right."""

    def outcome(fast):
        try:
            return [(type(event).__name__, getattr(event, "value", None)) for event in events(text, fast=fast)]
        except YamlError:
            return None

    fast, slow = outcome(True), outcome(False)
    if fast is not None and slow is not None:
        assert fast == slow


def test_lines_of_keys_and_values():
    tree = parse("a:\n  b: 1\n  c:\n    - x\n    - y\n")
    assert [tree.find(path) for path in [("a",), ("a", "b"), ("a", "c"), ("a", "c", 1), ("a", "z"), ("a", "c", 9)]] == [
        1, 2, 3, 5, None, None,
    ]  # fmt: skip


def test_the_span_of_a_scalar_is_its_place_in_the_text():
    text = 'käse: "ü"\r\nb: [x, unresolved] # ß\r\n'
    start, end = parse(text).value["b"].value[1].span
    assert text[start:end] == "unresolved"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\na: 2\n", 2, "duplicate key 'a'"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "tag"),
        ("a: !custom 1\n", 1, "tag"),
        ("a: 1\n---\nb: 2\n", 3, "a second document"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "no merge key"),
        ("a: *nobody\n", 1, "names no anchor"),
        ("? [a]\n: 1\n", 1, "a key must be a plain word"),
        ("a: [\n", 2, ""),
        ("a: 'x\n", 2, ""),
        ("a: \x01\n", 1, "a character that YAML does not allow"),
        ("a: 1\nb: x\u2028y\n", 2, 'write "\\u2028"'),
        ("a:\n\tb: 1\n", 2, "a tab indents this line"),
        ("a: " + "9" * 5000, 1, "a number of 5000 characters"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 1, "nested deeper"),
        ("[" * 100_000, 1, ""),
        ("x" * (MAX_BYTES + 1), 1, "larger than"),
    ],
)
def test_what_is_refused(text, line, message):
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert caught.value.problems[0].line == line
    assert message in caught.value.problems[0].message


def test_an_alias_bomb_is_defused_before_it_is_expanded():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(YamlError, match="values once aliases are expanded"):
        parse("\n".join(lines))


def test_a_recursive_alias_is_no_endless_loop():
    with pytest.raises(YamlError, match="names no anchor"):
        parse("a: &a [*a]\n")


def test_an_honest_alias_is_read():
    assert parse("a: &x {b: 1}\nc: *x\n").plain() == {"a": {"b": 1}, "c": {"b": 1}}


def test_without_libyaml_the_same_is_read(monkeypatch):
    text = 'a: &x {b: [1, "two", 3e0]}\nc: *x\nkäse:\n  - >-\n    folded\n    text\n  - unresolved # ß\n'
    fast = parse(text)
    monkeypatch.delattr("yaml.CSafeLoader")
    slow = parse(text)
    assert slow.plain() == fast.plain() == {"a": {"b": [1, "two", 3.0]}, "c": {"b": [1, "two", 3.0]},
                                            "käse": ["folded text", "unresolved"]}  # fmt: skip
    paths = [("a", "b", 2), ("käse", 0), ("käse", 1)]
    assert [slow.find(path) for path in paths] == [fast.find(path) for path in paths] == [1, 4, 7]
    assert slow.value["käse"].value[1].span == fast.value["käse"].value[1].span
    with pytest.raises(YamlError) as caught:
        parse("a: 1\nb: [\n")
    assert caught.value.problems[0].line >= 2
