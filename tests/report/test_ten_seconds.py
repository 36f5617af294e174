"""What a person sees of a run in ten seconds: one sentence, where it comes from, the same next command everywhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.outcomes import Outcome
from harness.records.case_record import Checkout
from harness.report.bars import bars
from harness.report.divergence import curves
from harness.report.render import render_run
from harness.report.text import headline, next_step, parts


@pytest.mark.parametrize(
    ("advice", "commands"),
    [
        ("quantgate inspect --case a", ["quantgate inspect --case a"]),
        ("pytest 'cases/a; b.yaml::c, d' --runner cpu", ["pytest 'cases/a; b.yaml::c, d' --runner cpu"]),
        (
            "quantgate report runs/1  # look at its frames; if they are right: quantgate accept a --reason '...'",
            ["quantgate report runs/1", "quantgate accept a --reason '...'"],
        ),
        ("read the engine's log: tail -n 60 /x/engine.log", ["tail -n 60 /x/engine.log"]),
        ("add `base:` to x, the BF16 checkpoint; then pytest cases/a.yaml::x", ["pytest cases/a.yaml::x"]),
        ("quantgate regenerate --case a, if the new one is right", ["quantgate regenerate --case a"]),
        ("export HF_TOKEN=...; or take it out of `pass_env`", ["export HF_TOKEN=..."]),
        ("export again with float32 scales", []),
        ("make this run healthy first", []),
        ("", []),
        ("quantgate accept it's", []),
    ],
)
def test_only_what_a_shell_understands_is_a_command(advice: str, commands: list[str]) -> None:
    found = parts(advice)
    assert [part.text for part in found if part.is_command] == commands
    words = re.sub(r"\W", "", "".join(part.text for part in found))
    assert words == re.sub(r"\W", "", advice), "nothing of the advice is lost"


@given(advice=st.text(alphabet="quantgate pytest-#;:,'\"`a ", max_size=60))
def test_a_command_is_always_whole(advice: str) -> None:
    for part in parts(advice):
        if part.is_command:
            assert shlex.split(part.text)
            assert part.text in advice


@pytest.mark.parametrize(
    ("summary", "first", "rest"),
    [
        ("short", "short", ""),
        ("ssim is 0.5, below. Cause: the VAE; also noise", "ssim is 0.5, below.", "Cause: the VAE; also noise"),
        ("a v0.5.12 A of e.g. nothing", "a v0.5.12 A of e.g. nothing", ""),
    ],
)
def test_a_verdict_is_one_sentence(summary: str, first: str, rest: str) -> None:
    assert headline(summary) == (first, rest)


def test_a_long_sentence_is_cut_at_a_pause_and_comes_whole_below() -> None:
    summary = f"the weights are not the golden's: {'x' * 100}; {'y' * 200}"
    first, rest = headline(summary)
    assert first == f"the weights are not the golden's: {'x' * 100} …"
    assert rest == summary


def page(folder: Path, case: str) -> str:
    return (folder / "cases" / f"{case}.html").read_text()


def boxes(html: str) -> list[str]:
    """What the copy boxes of a page hold."""
    found = re.findall(r'<div class="command.*?<code[^>]*>(.*?)</code>', html, re.DOTALL)
    return [text.replace("&#39;", "'").replace("&amp;", "&") for text in found]


def test_terminal_and_page_give_the_same_next_command(make: Any, rendered: Path, sample: Path) -> None:
    from harness.report.load import load_run

    for entry in load_run(sample).entries:
        html = page(rendered, entry.slug)
        step = next_step(entry.record)
        for part in parts(step):
            assert (part.text in boxes(html)) is part.is_command, (entry.slug, part)
        if not step:
            assert "data-main-command" not in html


def test_copy_boxes_hold_only_commands(rendered: Path) -> None:
    for path in rendered.rglob("*.html"):
        for text in boxes(path.read_text()):
            assert text.split()[0] in ("quantgate", "pytest"), (path.name, text)


def test_the_header_says_from_where_the_run_was_started(make: Any, tmp_path: Path) -> None:
    clip = make.drawn_clip()
    checkout = Checkout(
        commit="0123456789abcdef", branch="feature/<b>", pull_request="12", ci_run="https://ci.example/runs/1?a=1&b=2"
    )
    record = make.measured_record("x", clip, clip).model_copy(update={"checkout": checkout})
    make.write_case(tmp_path / "run", record, clip, clip)
    render_run(tmp_path / "run", tmp_path / "out")
    for html in ((tmp_path / "out" / "index.html").read_text(), page(tmp_path / "out", "x")):
        assert "0123456789ab<" in html
        assert "feature/&lt;b&gt;" in html
        assert "pull request #12" in html
        assert 'href="https://ci.example/runs/1?a=1&amp;b=2"' in html


def test_every_page_leads_to_all_cases_and_green_cases_have_a_picture(rendered: Path) -> None:
    assert '<a href="../index.html">all cases</a>' in page(rendered, "exact")
    overview = (rendered / "index.html").read_text()
    assert "media/exact/thumbnail-candidate.webp" in overview
    assert "media/broken/thumbnail-difference.webp" in overview
    assert (rendered / "media" / "broken" / "thumbnail-difference.webp").stat().st_size
    assert "thumbnail-difference" not in overview.split('href="cases/exact.html"')[1].split("</tr>")[0]


def test_a_green_page_shows_nothing_as_broken(rendered: Path) -> None:
    for case in ("exact", "near", "control"):
        html = page(rendered, case)
        assert "broken" not in re.sub(r'aria-label="[^"]*"|<title>.*?</title>|<small>.*?</small>', "", html), case
        assert 'class="failed"' not in html
    assert "worst broken" in page(rendered, "broken")
    assert "first broken" in page(rendered, "broken")


def test_the_limits_of_a_control_are_not_drawn_as_failures(make: Any) -> None:
    golden = make.drawn_clip()
    failed = make.measured_record("broken", golden, make.broken_clip(golden))
    verdict = failed.verdict.model_copy(update={"outcome": Outcome.PASS, "observed": Outcome.REGRESSION})
    control = failed.model_copy(update={"verdict": verdict})
    assert {bar.state for bar in bars(failed)} == {"failed"}
    assert {bar.state for bar in bars(control)} == {"expected"}
    assert any(curve.failed for curve in curves(failed))
    assert not any(curve.failed for curve in curves(control))


def test_a_control_that_fails_otherwise_says_what_was_expected(make: Any, tmp_path: Path) -> None:
    request = {"id": "x", "expect": "regression:flicker_above_limit", "sampling": {}}
    make.write_case(tmp_path / "run", make.record("x", Outcome.REGRESSION, request=request))
    render_run(tmp_path / "run", tmp_path / "out")
    html = page(tmp_path / "out", "x")
    assert "it must fail as <code>regression:flicker_above_limit</code>" in html


def test_frames_come_first_unless_the_checkpoint_is_to_blame(make: Any, tmp_path: Path) -> None:
    golden = make.drawn_clip()
    broken = make.broken_clip(golden)
    doubtful = make.inspection(fault=False).model_copy(update={"outcome": "inconclusive"})
    frames = make.measured_record("frames", golden, broken, inspection=doubtful)
    verdict = frames.verdict.model_copy(update={"outcome": Outcome.CHECKPOINT_FAULT, "cause": "nibble_order"})
    fault = make.measured_record("fault", golden, broken, inspection=make.inspection(fault=True), verdict=verdict)
    for record in (frames, fault):
        make.write_case(tmp_path / "run", record, golden, broken)
    render_run(tmp_path / "run", tmp_path / "out")
    html = page(tmp_path / "out", "frames")
    assert html.index("data-player") < html.index("inspection-title")
    html = page(tmp_path / "out", "fault")
    assert html.index("inspection-title") < html.index("data-player")
