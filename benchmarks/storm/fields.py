"""Hostile fields: text of others in any field of a record does nothing on any surface that shows it."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt
from pydantic import ValidationError

from benchmarks.storm import samples
from benchmarks.storm.mutate import texts
from benchmarks.storm.trial import unexpected
from harness.harmless import harmless
from harness.records.case_record import CaseRecord
from harness.report.load import load_run
from harness.report.markdown import comment, job_summary
from harness.report.render import render_run
from harness.report.terminal import show_case

HOSTILE: tuple[str, ...] = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"'><svg onload=alert(1)>",
    "' onmouseover='alert(1)' x='",
    "javascript:alert(1)",
    "[x](javascript:alert(1)) ![y](https://evil.example/pixel.png) <https://evil.example>",
    "{{7*7}} {% for x in y %} ${7*7} %(x)s {0}",
    "@octocat @org/team please look",
    "fixes #1, GH-12, octo/repo#3, https://evil.example/x",
    "x\n::error file=a::owned\n::add-mask::x\n",
    "\n##[error]owned\r\n::stop-commands::token\r",
    "\u202egnp.exe \u2066 hidden \u200b\u2069 \ufeff",
    "\x1b[31mred\x1b]0;title\x07\x1b]8;;https://evil.example\x1b\\link",
    "\x00\x08\x7f\x9b31m ]]> <![CDATA[ <!-- --> &lt; &#x3C;script&#x3E;",
    "```\n# heading\n| a | b |\n|---|---|\n</details></table>\n~~~",
    "`code` **b** __u__ ~~s~~ | $x^2$ \\| \\` <b>",
    "$(touch owned); `touch owned` && rm -rf / | sh\n# x",
    "../../../../etc/passwd\x00.png",
    "\ud7ff\ue000\U0010ffff\u0345" * 40,
    "A" * 20_000,
    "<" * 3000,
)
DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069\u200b-\u200f\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Characters that turn the reading direction, hide text or steer a terminal."""
COMMAND = re.compile(r"^\s*(::[a-zA-Z-]+|##\[)", re.M)
"""A line that GitHub obeys if it stands in a job's log."""
MARKDOWN_TAGS = frozenset(
    ("body", "h1", "h2", "h3", "p", "sub", "table", "thead", "tbody", "tr", "th", "td", "code", "details", "summary",
     "ul", "ol", "li", "pre", "br", "strong", "em", "hr", "a")
)  # fmt: skip
MENTION = re.compile(r"(?<![\w`/])@octocat")


def attack(rng: random.Random, folder: Path) -> tuple[str, str]:
    """Put hostile text into one field, some fields or all fields of a record, and look at every surface."""
    body = samples.record().as_json()
    places = texts(body)
    text = rng.choice(HOSTILE)
    if rng.random() < 0.3:
        text += rng.choice(HOSTILE)
    count = rng.choice((1, 1, 2, 8, len(places)))
    for holder, key in rng.sample(places, count):
        before = holder[key]
        holder[key] = text
        try:
            CaseRecord.model_validate_json(json.dumps(body))
        except (ValidationError, ValueError):
            holder[key] = before  # the record refuses it, such as an outcome that is none
    try:
        hostile = CaseRecord.model_validate_json(json.dumps(body))
    except ValidationError as error:
        return "record", unexpected(error)
    run = folder / "run"
    hostile.write(run / "case" / "record.json")
    surface = rng.choice(("page", "page", "markdown", "terminal"))
    message = f"{surface}: {HOSTILE.index(text) if text in HOSTILE else 'two texts'}"
    return message, _look(surface, run)


def _look(surface: str, run: Path) -> str:
    if surface == "page":
        render_run(run)
        pages = [path.read_text(encoding="utf-8") for path in sorted((run / "report").rglob("*.html"))]
        return next(filter(None, map(page_fault, pages)), "")
    loaded = load_run(run)
    if surface == "markdown":
        return next(filter(None, map(markdown_fault, (job_summary(loaded), comment(loaded)))), "")
    return terminal_fault(show_case(loaded.entries[0]))


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fault = ""
        self.tags: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            target = (value or "").strip().lower()
            if name.startswith("on"):
                self.fault = f"an event handler: {name}"
            if name in ("href", "src", "action") and re.match(r"(javascript|vbscript|https?|//)", target):
                self.fault = f"{name} leads to {target[:60]}"
            if name == "style" and "url(" in target:
                self.fault = "a style loads an address"


def page_fault(html: str) -> str:
    """Return how a page obeys its text: a handler, an address of others, another script than its own."""
    page = _Page()
    page.feed(html)
    if page.fault:
        return page.fault
    active = {tag for tag in page.tags if tag in ("iframe", "object", "embed", "base", "math")}
    if active:
        return f"the page holds {sorted(active)}"
    if "<script>document.title" in html or "owned'</script>" in html:
        return "a script of the text is in the page"
    return text_fault(html, "the page")


def markdown_fault(text: str) -> str:
    """Return how GitHub would obey a Markdown text: a foreign element, a mention, a link, a picture."""
    plain = text.partition("-->\n")[2] if text.startswith("<!--") else text
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(plain)
    page = _Page()
    page.feed(html)
    foreign = set(page.tags) - MARKDOWN_TAGS
    if foreign or page.fault:
        return f"Markdown: {sorted(foreign)} {page.fault}"
    outside = re.sub(r"<(code|pre)[^>]*>.*?</\1>", "", html, flags=re.S)
    if MENTION.search(re.sub(r"<[^>]*>", "", outside)):
        return "Markdown: somebody is mentioned"
    if re.search(r"(?<![\w`])https?://evil", re.sub(r"<[^>]*>", "", outside)):
        return "Markdown: an address becomes a link"
    return text_fault(text.replace("\u200b", ""), "Markdown")


def terminal_fault(text: str) -> str:
    """Return how a terminal or a job's log would obey a text."""
    if COMMAND.search(harmless(text)):
        return "a command of GitHub in the text of the terminal"
    return text_fault(text, "the terminal")


def text_fault(text: str, name: str) -> str:
    """Return which character hides or turns text."""
    match = DIRECTION.search(text)
    return f"{name} holds U+{ord(match[0]):04X}" if match else ""
