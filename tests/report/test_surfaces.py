"""Markdown and JSON from the same records, read back by other people's libraries."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.cli.report import Format, report
from harness.markdown import COMMENT_CHARACTERS, code, fenced, neutral
from harness.outcomes import RULES, Outcome
from harness.records.case_record import CaseRecord
from harness.records.verdict import Verdict
from harness.report.load import load_run
from harness.report.markdown import comment, job_summary


def parse(text: str) -> ET.Element:
    """XML that was written by the code under test."""
    return ET.fromstring(text)  # noqa: S314


def hostile_run(make: ModuleType, folder: Path) -> Path:
    text = make.HOSTILE
    verdict = Verdict(outcome=Outcome.REGRESSION, cause=text, summary=text, next_command=f"pytest '{text}'\n```\n# x")
    change = {"identity_class": "env", "field": text, "golden": text, "run": text}
    found = make.record("case", verdict=verdict, log_tail=(text, "\x00\x08]]>"), changes=(change,), runner=text)
    make.write_case(folder, found)
    return folder


def rendered(markdown: str) -> ET.Element:
    """As GitHub sees it: CommonMark with tables, strikethrough, HTML let through, parsed as XML."""
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    return parse(f"<body>{html}</body>")


FOREIGN = {
    "h2",
    "h3",
    "p",
    "sub",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "code",
    "details",
    "summary",
    "ul",
    "li",
    "pre",
    "body",
}


@pytest.mark.parametrize("surface", [job_summary, comment])
def test_hostile_text_makes_no_element_in_markdown(make: ModuleType, tmp_path: Path, surface: object) -> None:
    markdown = surface(load_run(hostile_run(make, tmp_path)))  # type: ignore[operator]
    tree = rendered(markdown.partition("-->\n")[2] if markdown.startswith("<!--") else markdown)
    assert {element.tag for element in tree.iter()} <= FOREIGN
    whole = "".join(tree.itertext())
    assert "document.title='owned'" in whole
    assert "@octocat" not in "".join(node for node in tree.itertext() if "pytest" not in node)


@given(st.text(max_size=60))
def test_any_text_is_shown_and_does_nothing(text: str) -> None:
    tree = rendered(f"| a | b |\n|---|---|\n| {neutral(text)} | {code(text)} |\n")
    assert {element.tag for element in tree.iter()} <= {"body", "table", "thead", "tbody", "tr", "th", "td", "code"}
    cells = tree.findall(".//tbody/tr/td")
    assert len(cells) == 2
    from harness.text import one_line

    shown = "".join(cells[0].itertext()).replace("\u200b", "")
    assert shown.split() == one_line(text).split()


@given(st.text(max_size=80))
def test_a_fence_holds_whatever_is_in_it(text: str) -> None:
    tree = rendered(fenced(text, "sh"))
    assert [element.tag for element in tree.iter()] == ["body", "pre", "code"]


@pytest.mark.parametrize("text", ["@octocat", "see #12", "GH-12", "https://evil.example/x", "www.evil.example"])
def test_what_github_links_by_itself_is_broken_up(text: str) -> None:
    tree = rendered(neutral(text))
    assert text not in "".join(tree.itertext())
    assert text in "".join(tree.itertext()).replace("\u200b", "")


def test_a_comment_keeps_its_mark_and_githubs_limit(make: ModuleType, tmp_path: Path) -> None:
    for index in range(200):
        found = make.record(f"case{index:03d}", Outcome.REGRESSION)
        long = found.verdict.model_copy(update={"summary": "x" * 390})
        make.write_case(tmp_path, found.model_copy(update={"verdict": long}))
    run = load_run(tmp_path)
    text = comment(run)
    assert text.splitlines()[0] == "<!-- quantgate-report:cpu -->"
    assert len(text) <= COMMENT_CHARACTERS
    assert "rest is in the report" in text
    assert "case199" in job_summary(run)


def test_json_carries_every_record(sample: Path) -> None:
    found = json.loads(report(sample, Format.JSON))
    assert found["exit_code"] == RULES[Outcome.CHECKPOINT_FAULT].exit_code
    assert found["green"] is False
    names = [CaseRecord.model_validate(case["record"]).case for case in found["cases"]]
    assert sorted(names) == ["broken", "control", "crashed", "exact", "fault", "near", "new"]


def test_a_text_is_written_where_it_is_asked_for(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run.json"
    assert report(sample, Format.JSON, out) == str(out)
    assert out.read_text(encoding="utf-8") == report(sample, Format.JSON)
