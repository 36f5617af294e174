"""The folder of HTML: complete, offline, escaped, replaced as a whole."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.outcomes import Outcome
from harness.records.verdict import Verdict
from harness.report.load import ReportError
from harness.report.render import POLICY, render_run


class Page(HTMLParser):
    """Elements of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def test_there_is_an_overview_and_a_page_a_case(rendered: Path) -> None:
    assert (rendered / "index.html").is_file()
    assert {path.stem for path in (rendered / "cases").iterdir()} == {
        "broken", "control", "crashed", "exact", "fault", "near", "new",
    }  # fmt: skip


def test_every_link_script_style_and_picture_lies_in_the_folder(rendered: Path) -> None:
    for path in pages(rendered):
        for tag, attributes in Page(path).elements:
            for name in ("href", "src"):
                target = attributes.get(name)
                if target is None or target.startswith("#"):
                    continue
                assert "://" not in target, f"{path.name}: <{tag} {name}={target}>"
                assert (path.parent / target).resolve().is_relative_to(rendered.resolve())
                assert (path.parent / target).is_file(), f"{path.name}: {target}"


def test_every_page_carries_the_policy_and_nothing_that_it_forbids(rendered: Path) -> None:
    assert "unsafe" not in POLICY
    for path in pages(rendered):
        page = Page(path)
        policies = [a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
        assert policies == [POLICY]
        for tag, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (path.name, tag)
            assert tag != "style"
            if tag == "script":
                assert attributes.get("src", "").startswith(("static/", "../static/"))


def test_hostile_text_stays_text_everywhere(make: ModuleType, tmp_path: Path) -> None:
    hostile = make.HOSTILE
    golden = make.drawn_clip(3)
    found = make.measured_record(
        "case", golden, make.broken_clip(golden, 1),
        request={"sampling": {"prompt": hostile}, hostile: hostile},
        node=f"cases/x.yaml::{hostile}",
        source=hostile,
        runner=hostile,
        log_tail=(hostile,),
        changes=({"identity_class": "env", "field": hostile, "golden": hostile, "run": [hostile]},),
        verdict=Verdict(outcome=Outcome.REGRESSION, cause=hostile, summary=hostile, next_command=hostile),
    )  # fmt: skip
    make.write_case(tmp_path / "run", found, golden, golden)
    folder = render_run(tmp_path / "run").parent
    for path in pages(folder):
        page = Page(path)
        assert not [t for t, a in page.elements if "onerror" in a or "onload" in a or (t == "img" and a["src"] == "x")]
        assert [a for t, a in page.elements if t == "script" and "src" not in a] == []
        assert "document.title='owned'" in page.text
        assert "\x1b" not in page.text
        assert "\u202e" not in page.text


@pytest.mark.parametrize(
    ("case", "texts"),
    [
        ("broken", ["Worst first", "worst tile", "First diverging step: 2", "limit broken", "quantgate accept broken",
                    "pytest cases/tiny.yaml::broken --runner cpu", "4567ffff", "0123abcd", "dequantize+linear"]),
        ("fault", ["reads it high", "contradicted", "sglang==0.5.12", "quantgate inspect --case fault"]),
        ("control", ["negative control: it must fail, and did"]),
        ("exact", ["bit-exact"]),
        ("new", ["There is no golden", "quantgate accept new"]),
        ("crashed", ["RuntimeError: out of memory"]),
    ],
)  # fmt: skip
def test_a_page_says_what_its_case_needs(rendered: Path, case: str, texts: list[str]) -> None:
    text = Page(rendered / "cases" / f"{case}.html").text
    assert [wanted for wanted in texts if wanted not in text] == []


def test_the_overview_counts_and_orders_by_severity(rendered: Path) -> None:
    page = Page(rendered / "index.html")
    assert "4 of 7 cases not green: 1 checkpoint fault, 1 regression, 1 golden missing, 1 infra." in page.text
    order = [a["href"] for t, a in page.elements if t == "a" and "data-case" in a]
    assert [str(name)[6:-5] for name in order] == ["fault", "broken", "new", "crashed", "control", "exact", "near"]


def test_red_cases_form_a_ring(rendered: Path) -> None:
    place, seen = "fault", []
    for _ in range(4):
        seen.append(place)
        links = {
            a.get("data-key"): a["href"] for t, a in Page(rendered / "cases" / f"{place}.html").elements if t == "a"
        }
        place = str(links["n"]).removesuffix(".html")
    assert seen == ["fault", "broken", "new", "crashed"]
    assert place == "fault"
    links = {a.get("data-key"): a["href"] for t, a in Page(rendered / "cases" / "exact.html").elements if t == "a"}
    assert links["n"] == "fault.html"


def test_a_record_that_cannot_be_read_is_named_and_not_green(make: ModuleType, tmp_path: Path) -> None:
    make.write_case(tmp_path, make.record("fine"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text('{"schema_version": 99}')
    page = Page(render_run(tmp_path).parent / "index.html")
    assert "bad/record.json" in page.text
    assert "1 record cannot be read" in page.text
    assert [a["class"] for t, a in page.elements if "hero" in (a.get("class") or "")] == ["hero bad"]


def test_a_damaged_clip_is_named_and_the_rest_is_shown(make: ModuleType, tmp_path: Path) -> None:
    golden = make.drawn_clip(3)
    folder = make.write_case(tmp_path, make.measured_record("cut", golden, make.broken_clip(golden, 1)), golden, golden)
    data = (folder / "clip.safetensors").read_bytes()
    (folder / "clip.safetensors").write_bytes(data[: len(data) // 2])
    text = Page(render_run(tmp_path).parent / "cases" / "cut.html").text
    assert "cannot be read as a clip" in text
    assert "golden" in text


def test_artifacts_outside_the_records_folder_are_not_shown(make: ModuleType, tmp_path: Path) -> None:
    clip = make.drawn_clip(2)
    make.write_case(tmp_path / "other", make.record("secret"), clip, clip)
    found = make.record("nosy", artifacts={"candidate": "../../other/secret/clip.safetensors"})
    make.write_case(tmp_path / "run", found)
    folder = render_run(tmp_path / "run").parent
    assert not (folder / "media").exists()


def test_rendering_again_replaces_the_report_and_nothing_else(make: ModuleType, tmp_path: Path) -> None:
    make.write_case(tmp_path / "run", make.record("one"))
    first = render_run(tmp_path / "run")
    (first.parent / "left-over.html").write_text("old")
    again = render_run(tmp_path / "run")
    assert again == first
    assert not (first.parent / "left-over.html").exists()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["one", "report"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ReportError, match="is no report"):
        render_run(tmp_path / "run", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_failed_rendering_leaves_the_old_report(make: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    make.write_case(tmp_path / "run", make.record("one"))
    first = render_run(tmp_path / "run")
    before = first.read_text()

    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr("harness.report.render.case_page", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        render_run(tmp_path / "run")
    assert first.read_text() == before
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_the_same_records_give_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert content(render_run(sample, tmp_path / "a").parent) == content(render_run(sample, tmp_path / "b").parent)


@pytest.mark.parametrize("make_empty", [True, False])
def test_a_folder_without_records_says_what_to_type(tmp_path: Path, make_empty: bool) -> None:
    folder = tmp_path / "runs"
    if make_empty:
        folder.mkdir()
    with pytest.raises(ReportError) as caught:
        render_run(folder)
    assert str(folder) in str(caught.value)
    assert re.search(r"next: \w+", str(caught.value))


def test_cases_of_one_name_on_two_runners_get_two_pages(make: ModuleType, tmp_path: Path) -> None:
    for shard in ("a", "b"):
        make.write_case(tmp_path / shard, make.record("same", runner=shard))
    assert len(list((render_run(tmp_path).parent / "cases").iterdir())) == 2


def test_what_a_runtime_resolved_and_what_was_emulated_is_shown_as_text(sample: Path, tmp_path: Path) -> None:
    import shutil

    from harness.records.case_record import CaseRecord

    run = tmp_path / sample.name
    shutil.copytree(sample, run)
    record = CaseRecord.read(run / "exact" / "record.json")
    assert record.engine is not None
    facts = {"runtime": "sglang==0.5.23", "flow_shift": 12.0, "emulated": ["FP4 <b>product</b>"]}
    engine = record.engine.model_copy(update={"runtime": facts})
    record.model_copy(update={"engine": engine}).write(run / "exact" / "record.json")
    out = render_run(run, tmp_path / "out").parent
    page = Page(out / "cases" / "exact.html")
    assert "What the runtime resolved; 1 operators emulated" in page.text
    assert "FP4 <b>product</b>" in page.text
    assert "What the runtime resolved" not in Page(out / "cases" / "near.html").text
