"""A merge is held against the plan: whatever is missing, torn, foreign or doubled is named, and never green."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from builders import PASSED, bare_generation, evidence_of_a_pass, make_record, planned_case
from pydantic import ValidationError

from harness.cli import lane
from harness.definitions.case import Waiver
from harness.definitions.runner import load_runners
from harness.goldens.pending import candidate_of
from harness.lane.durations import CaseTimes, History
from harness.lane.merge import Merged, join_junit, merge, unproven
from harness.lane.plan import Plan, PlanError, make_plan
from harness.lane.summary import MARK, lane_markdown, plan_markdown
from harness.outcomes import Outcome
from harness.reading import parse_xml
from harness.records.case_record import CaseRecord, Timing
from harness.records.generation import EngineStart
from harness.records.identity import Device, Fingerprint, Identity
from harness.records.verdict import Finding, Verdict

B200 = load_runners(Path(__file__).parents[2] / "runners")["b200"]
JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="0" failures="1" skipped="0" tests="2" time="1">
<properties><property name="quantgate_plan" value="p" /></properties>
<testcase classname="cases.a.yaml" name="a" time="1"/>
<testcase classname="cases.a.yaml" name="b" time="1"><failure message="no">no</failure></testcase>
</testsuite></testsuites>
"""


CASES = {name: planned_case(name, model) for name, model in (("a", "m1"), ("b", "m2"), ("c", "m3"))}


@pytest.fixture
def plan() -> Plan:
    """Three cases of three engines on three shards."""
    return make_plan(list(CASES.values()), B200, 3, History()).model_copy(update={"id": "p"})


def record(name: str, outcome: Outcome = Outcome.PASS, **changes: Any) -> CaseRecord:
    """What a shard writes of a case."""
    values: dict[str, Any] = {
        "plan": "p",
        "case": name,
        "node": f"cases/a.yaml::{name}",
        "source": "cases/a.yaml:1",
        "runner": "b200",
        "request": CASES[name].case.model_dump(mode="json"),
        "verdict": Verdict(outcome=outcome, cause="x", summary="as it was"),
        "fingerprint": Fingerprint(runner="b200", device=Device(kind="cuda", name="NVIDIA B200", uuid="GPU-1")),
        "engine": EngineStart(engine="e", process=4, load_seconds=20, loads=1),
        "generation": bare_generation(),
        "timing": Timing(load=20, total=50),
        **evidence_of_a_pass(),
    }
    return make_record(**(values | changes))


def write(folder: Path, *records: CaseRecord) -> Path:
    """What a shard leaves."""
    for one in records:
        one.write(folder / one.case / "record.json")
        (folder / one.case / "clip.safetensors").write_bytes(b"frames")
    return folder


def by_case(merged: Merged) -> dict[str, str]:
    """Outcome by case."""
    return {case.case: case.outcome.value for case in merged.cases}


def test_three_shards_become_one_folder(tmp_path: Path, plan: Plan) -> None:
    for name in CASES:
        write(tmp_path / "shards" / f"shard-{name}", record(name))
    (tmp_path / "shards/shard-a/junit.xml").write_text(JUNIT)
    merged = merge([tmp_path / "shards"], plan, tmp_path / "out")
    assert merged.exit_code == 0
    assert by_case(merged) == dict.fromkeys(("a", "b", "c"), "pass")
    assert (tmp_path / "out/b/clip.safetensors").read_bytes() == b"frames"
    assert CaseRecord.read(tmp_path / "out/c/record.json") == record("c")
    assert Merged.read(tmp_path / "out/merge.json") == merged
    assert Plan.read(tmp_path / "out/plan.json") == plan
    assert History.read(tmp_path / "out/history.json").runners["b200"]["a"] == CaseTimes(seconds=(30,), loads=(20,))
    assert 'tests="2"' in (tmp_path / "out/junit.xml").read_text()
    assert {case.device for case in merged.cases} == {"GPU-1"}
    assert {case.process for case in merged.cases} == {4}


def test_a_planned_case_without_a_result_is_never_green(tmp_path: Path, plan: Plan) -> None:
    merged = merge([write(tmp_path / "one", record("a"), record("b"))], plan, tmp_path / "out")
    assert by_case(merged) == {"a": "pass", "b": "pass", "c": "not_run"}
    assert merged.exit_code == 20
    (lost,) = merged.missing()
    assert lost.next_command == f"pytest --plan plan.json --shard {lost.shard}/3 --runner b200"
    text = (tmp_path / "out/junit.xml").read_text()
    assert '<error type="not_run"' in text
    assert 'errors="1"' in text


def test_no_shard_at_all(tmp_path: Path, plan: Plan) -> None:
    merged = merge([], plan, tmp_path / "out")
    assert set(by_case(merged).values()) == {"not_run"}
    assert merged.exit_code == 20


def test_the_worst_case_decides(tmp_path: Path, plan: Plan) -> None:
    left = write(tmp_path / "one", record("a", Outcome.REGRESSION), record("b", Outcome.INFRA))
    merged = merge([left], plan, tmp_path / "out")
    assert merged.exit_code == 10
    assert by_case(merged) == {"a": "regression", "b": "infra", "c": "not_run"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runner": "h200"}, "runner h200"),
        ({"plan": "yesterday"}, "it is of plan yesterday, and this is plan p"),
        ({"plan": ""}, "it is of no plan, and this is plan p"),
        ({"request": {**CASES["c"].case.model_dump(mode="json"), "env": {"A": "1"}}}, "another definition"),
        ({"request": {"id": "c"}}, "no case of this version"),
    ],
)
def test_a_record_of_something_else_is_no_result(
    tmp_path: Path, plan: Plan, changes: dict[str, Any], message: str
) -> None:
    left = write(tmp_path / "one", record("a"), record("b"), record("c", **changes))
    merged = merge([left], plan, tmp_path / "out")
    assert by_case(merged)["c"] == "not_run"
    assert message in merged.missing()[0].summary
    assert merged.exit_code == 20


def test_a_torn_record_is_no_result(tmp_path: Path, plan: Plan) -> None:
    left = write(tmp_path / "one", record("a"), record("b"), record("c"))
    whole = (left / "c/record.json").read_text()
    (left / "c/record.json").write_text(whole[: len(whole) // 2])
    merged = merge([left], plan, tmp_path / "out")
    assert by_case(merged)["c"] == "not_run"
    assert "cannot be read" in merged.missing()[0].summary


def test_an_unplanned_record_is_named_and_does_not_count(tmp_path: Path, plan: Plan) -> None:
    left = write(tmp_path / "one", record("a"), record("b"), record("c"))
    record("a", node="cases/b.yaml::a").write(left / "stray/record.json")
    merged = merge([left], plan, tmp_path / "out")
    assert merged.exit_code == 0
    assert "was not planned" in merged.problems[0]


def test_of_two_records_the_worse_counts(tmp_path: Path, plan: Plan) -> None:
    first = write(tmp_path / "one", record("a", Outcome.REGRESSION), record("b"), record("c"))
    second = write(tmp_path / "two", record("a"))
    for folders in ([first, second], [second, first]):
        merged = merge(folders, plan, tmp_path / f"out-{folders[0].name}")
        assert by_case(merged)["a"] == "regression"
        assert "two records" in merged.problems[0]


def test_a_shard_that_was_started_again_counts_with_its_result(tmp_path: Path, plan: Plan) -> None:
    stopped = write(tmp_path / "one", record("a", Outcome.NOT_RUN), record("b"), record("c"))
    again = write(tmp_path / "two", record("a", Outcome.REGRESSION))
    for folders in ([stopped, again], [again, stopped]):
        merged = merge(folders, plan, tmp_path / f"out-{folders[0].name}")
        assert by_case(merged)["a"] == "regression"
        assert merged.problems == ()
    assert by_case(merge([stopped], plan, tmp_path / "out"))["a"] == "not_run"


@pytest.mark.parametrize(("mark", "kept"), [("p", {"a", "b"}), ("yesterday", set()), ("", {"mine"})])
def test_junit_of_another_plan_is_left_out(tmp_path: Path, plan: Plan, mark: str, kept: set[str]) -> None:
    text = JUNIT.replace('value="p"', f'value="{mark}"') if mark else JUNIT.replace("quantgate_plan", "other")
    if not mark:
        text = text.replace("</testsuite>", '<testcase classname="tests.test_it" name="mine"/></testsuite>')
    left = write(tmp_path / "one", *map(record, CASES))
    (left / "junit.xml").write_text(text)
    merged = merge([left], plan, tmp_path / "out")
    joined = (tmp_path / "out/junit.xml").read_text()
    assert {name for name in ("a", "b", "mine") if f'name="{name}"' in joined} == kept
    assert bool(merged.problems) == (mark != "p")


def test_a_folder_in_use_is_not_merged_into(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("")
    with pytest.raises(PlanError, match="not empty"):
        merge([], plan, tmp_path / "out")


def test_junit_of_a_retried_case_is_one_test_and_bombs_are_refused(tmp_path: Path) -> None:
    again = JUNIT.replace("</testsuite>", '<testcase classname="cases.a.yaml" name="b" time="2"/></testsuite>')
    (tmp_path / "junit.xml").write_text(again)
    (tmp_path / "junit-bad.xml").write_text("<testsuites")
    (tmp_path / "junit-bomb.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><testsuites/>')
    problems = join_junit(tmp_path.glob("junit*.xml"), [], tmp_path / "out.xml", plan="p")
    assert len(problems) == 2
    text = (tmp_path / "out.xml").read_text()
    assert text.count("<testcase") == 2
    assert 'tests="2" failures="1"' in text  # the failing one of the two stays


def test_the_command_prints_appends_and_exits(
    tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step"))
    plan = plan.model_copy(update={"id": plan.digest()})
    left = write(tmp_path / "one", *(record(name, plan=plan.id) for name in CASES))
    plan.write(tmp_path / "plan.json")
    history = tmp_path / "history" / "history.json"
    arguments: dict[str, Any] = {"plan": tmp_path / "plan.json", "history": history}
    code = lane.merge_command(folders=[left, tmp_path / "absent"], out=tmp_path / "out", github=True, **arguments)
    assert code == 0
    assert "3 planned, 0 without a result; exit code 0" in capsys.readouterr().out
    assert (tmp_path / "step").read_text() == (tmp_path / "out/summary.md").read_text()
    lane.merge_command(folders=[left], out=tmp_path / "again", **arguments)
    assert History.read(history).runners["b200"]["a"].seconds == (30, 30)


def finding(stage: str, code: str) -> Finding:
    return Finding.model_validate({"stage": stage, "code": code, "gating": True, "message": "x"})


def passes(observed: Outcome | None = None, *findings: Finding) -> Verdict:
    return Verdict(outcome=Outcome.PASS, cause="x", summary="as it was", observed=observed, findings=findings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation": None}, "it passes without a generation"),
        ({"comparison": None}, "it passes without a comparison with a golden"),
        ({"golden": None}, "it passes without a comparison with a golden"),
        ({"limits": ()}, "it passes without a limit"),
        ({"limits": (PASSED.model_copy(update={"gates": False, "limit": None}),)}, "it passes without a limit"),
        ({"limits": (PASSED.model_copy(update={"passed": False}),)}, "it passes although ssim lies outside its limit"),
        ({"limits": (PASSED.model_copy(update={"value": 0.5}),)}, "it passes although ssim lies outside its limit"),
        ({"limits": (PASSED.model_copy(update={"value": None}),)}, "it passes although ssim lies outside its limit"),
        ({"verdict": passes(None, finding("sanity", "nan"))}, "it passes although nan was found"),
        ({"verdict": passes(Outcome.REGRESSION)}, "it passes although regression was observed"),
        ({"verdict": Verdict(outcome=Outcome.WAIVED, cause="x", summary="x")}, "it is waived, and the case has no"),
    ],
)
def test_a_green_record_without_its_evidence_is_no_result(
    tmp_path: Path, plan: Plan, changes: dict[str, Any], message: str
) -> None:
    left = write(tmp_path / "one", record("a", **changes), record("b"), record("c"))
    merged = merge([left], plan, tmp_path / "out")
    assert by_case(merged) == {"a": "not_run", "b": "pass", "c": "pass"}
    assert merged.exit_code == 20
    assert message in merged.cases[0].summary + merged.cases[1].summary + merged.cases[2].summary


def test_a_control_passes_only_by_what_it_says() -> None:
    control = CASES["a"].case.model_copy(update={"expect": "regression:frames/ssim_below_limit"})
    seen = finding("frames", "ssim_below_limit")
    missed = {"limits": (PASSED.model_copy(update={"passed": False, "value": 0.5}),)}
    good = passes(Outcome.REGRESSION, seen)
    for verdict, changes, is_proven in (
        (good, missed, True),
        (passes(Outcome.REGRESSION, finding("sanity", "noise")), missed, False),
        (passes(Outcome.CHECKPOINT_FAULT, seen), missed, False),
        (passes(None, seen), missed, False),
        # any breakage looks like this
        (passes(Outcome.REGRESSION, seen, finding("sanity", "nan")), missed, False),
        (passes(Outcome.REGRESSION, seen, finding("sanity", "noise")), missed, True),
        # the finding is stated, and nothing in the record supports it
        (good, {}, False),
        (good, {"limits": ()}, False),
        (good, {"limits": (PASSED.model_copy(update={"passed": False}),)}, False),
        (good, {**missed, "generation": None}, False),
        (good, {**missed, "comparison": None}, False),
    ):
        assert (unproven(record("a", verdict=verdict, **changes), control) == "") is is_proven, (verdict, changes)


def test_a_waiver_covers_its_causes_until_its_date_and_nothing_else() -> None:
    waiver = {
        "expect": "regression:flicker_above_limit", "owner": "ann", "reason": "r", "issue": "https://example.org/1",
        "expires": "2026-01-02",
    }  # fmt: skip
    case = CASES["a"].case.model_copy(update={"waiver": Waiver.model_validate(waiver)})
    seen = finding("frames", "flicker_above_limit")

    def waived(*findings: Finding, cause: str = "flicker_above_limit", **changes: Any) -> str:
        verdict = Verdict(
            outcome=Outcome.WAIVED, cause=cause, summary="x", observed=Outcome.REGRESSION, findings=findings
        )
        missed = PASSED.model_copy(
            update={"metric": "flicker", "direction": "lower_is_better", "limit": 0.1, "value": 0.5, "passed": False}
        )
        return unproven(record("a", verdict=verdict, **{"limits": (missed,), **changes}), case)

    assert waived(seen) == ""
    assert "no value of flicker lies outside" in waived(seen, limits=())
    assert "no value of flicker lies outside" in waived(limits=())
    assert "has no generation that was compared" in waived(seen, generation=None)
    assert "nan is not what its waiver is for" in waived(seen, finding("sanity", "nan"))
    assert "ssim_below_limit is not what" in waived(finding("frames", "ssim_below_limit"), seen)
    assert "no finding says flicker_above_limit" in waived(cause="x")
    assert "ended on 2026-01-02" in waived(seen, started="2026-01-03T00:00:00+00:00")
    assert "ended on 2026-01-02" in waived(seen, newest="2026-02-01T00:00:00+00:00")  # the clock was set back


def test_a_record_in_the_folder_of_something_else_is_no_result(tmp_path: Path, plan: Plan) -> None:
    """Its folder is copied: two cases in folders of one name would collide, a shard's folder brings more records."""
    write(tmp_path / "one", record("c"))
    record("a").write(tmp_path / "one/x/same/record.json")
    record("b").write(tmp_path / "one/y/same/record.json")
    record("a").write(tmp_path / "one/record.json")
    merged = merge([tmp_path / "one"], plan, tmp_path / "out")
    assert by_case(merged) == {"a": "not_run", "b": "not_run", "c": "pass"}
    assert any("lies in a folder called same" in problem for problem in merged.problems)
    assert {path.parent.name for path in (tmp_path / "out").rglob("record.json")} == {"c"}


def test_a_candidate_of_another_run_does_not_come_along(tmp_path: Path, plan: Plan) -> None:
    """Whoever accepts from the merged artifact takes what this plan's runs left."""
    identity = Identity(request={"seed": 0}, hardware={"device": "x"}, weights={"model": "a"}, env={}, subject={})
    left = write(tmp_path / "one", *(record(name, Outcome.GOLDEN_MISSING, identity=identity) for name in "abc"))
    for name, run in (("a", "r"), ("b", "another")):
        folder = left / name
        clip = {"clip": folder / "clip.safetensors"}
        of_run = record(name, Outcome.GOLDEN_MISSING, identity=identity, run=run)
        (tmp_path / run).mkdir(exist_ok=True)
        of_run.write(tmp_path / run / "record.json")
        candidate_of(of_run, clip | {"record": tmp_path / run / "record.json"}).write(folder / "candidate.json")
    folder = left / "c"
    candidate_of(record("c", identity=identity), {"clip": folder / "clip.safetensors"}).write(folder / "candidate.json")
    merged = merge([left], plan, tmp_path / "out")
    assert {path.parent.name for path in (tmp_path / "out").rglob("candidate.json")} == {"a"}
    assert sum("is of another run than the record" in problem for problem in merged.problems) == 2
    assert by_case(merged) == dict.fromkeys("abc", "golden_missing")


@pytest.mark.parametrize("body", ["", "<testcase classname='cases.a.yaml' name='a'/>"])
def test_junit_is_not_green_where_a_record_is_red(tmp_path: Path, plan: Plan, body: str) -> None:
    left = write(tmp_path / "one", record("a", Outcome.REGRESSION), record("b"), record("c"))
    mark = "<properties><property name='quantgate_plan' value='p'/></properties>"
    (left / "junit.xml").write_text(f"<testsuites><testsuite name='s'>{mark}{body}</testsuite></testsuites>")
    assert merge([left], plan, tmp_path / "out").exit_code == 10
    root = parse_xml((tmp_path / "out/junit.xml").read_bytes(), "junit.xml")
    assert (root.get("tests"), root.get("errors")) == ("1", "1")
    (error,) = root.iter("error")
    assert "regression" in (error.get("message") or "")


@pytest.mark.parametrize("name", ["report", "engines", "junit.xml", "merge.json", "plan.json", "summary.md", "a.perf"])
def test_a_case_is_not_called_like_a_file_of_a_run(name: str) -> None:
    with pytest.raises(ValidationError, match=r"must not (be|end in)"):
        CASES["a"].case.model_validate(CASES["a"].case.model_dump() | {"id": name})


def test_a_plan_that_was_changed_or_replaced_is_refused(tmp_path: Path, plan: Plan) -> None:
    made, other = (make_plan(list(CASES.values()), B200, 3, History()) for _ in range(2))
    assert made.id == made.digest() != other.id
    file = made.write(tmp_path / "plan.json")
    assert lane.read_plan(file, made.id) == made
    for wanted in (other.id, ""):
        with pytest.raises(PlanError, match="it was replaced") as refused:
            lane.read_plan(file, wanted)
        assert refused.value.exit_code == 20
    file.write_text(file.read_text().replace('"case": "b"', '"case": "d"'))
    with pytest.raises(PlanError, match="was changed after it was made"):
        lane.read_plan(file)


def test_the_summary_says_what_is_red_and_escapes_what_others_wrote(tmp_path: Path, plan: Plan) -> None:
    evil = "<script>| `x` @team [a](http://b)\n# head ![](u)"
    bad = record("b", Outcome.REGRESSION)
    bad = bad.model_copy(update={"verdict": bad.verdict.model_copy(update={"summary": evil})})
    merged = merge([write(tmp_path / "one", record("a"), bad)], plan, tmp_path / "out")
    text = lane_markdown(merged, plan)
    assert text.startswith(MARK)
    assert "red (exit code 10)" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| b ")]
    assert row.count(" | ") == 4
    assert "<script>" not in text
    assert "@team" not in text
    assert "http://" not in text
    assert "| not&#95;run |" in text
    assert json.dumps(plan.matrix())
    assert "3 cases on 3 shards" in plan_markdown(plan)


def test_a_retried_case_is_shown_although_it_passed(tmp_path: Path, plan: Plan) -> None:
    left = write(tmp_path / "one", record("a", attempt=2), record("b"), record("c"))
    merged = merge([left], plan, tmp_path / "out")
    assert merged.exit_code == 0
    assert "| a | pass (attempt 2) |" in lane_markdown(merged, plan)


def test_a_shard_brings_no_file_of_this_machine_into_what_is_uploaded(tmp_path: Path, plan: Plan) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the machine that merges")
    shard = write(tmp_path / "one", record("a"), record("b"), record("c"))
    (shard / "a/leak.txt").symlink_to(secret)
    (shard / "a/folder").symlink_to(tmp_path)
    os.mkfifo(shard / "b/fifo")  # reading it would never end
    (shard / "c/record.json").rename(tmp_path / "elsewhere.json")
    (shard / "c/record.json").symlink_to(tmp_path / "elsewhere.json")
    merged = merge([shard], plan, tmp_path / "out")
    assert by_case(merged) == {"a": "pass", "b": "pass", "c": "not_run"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert sorted(path.name for path in (tmp_path / "out/a").iterdir()) == ["clip.safetensors", "record.json"]
    for name in ("leak.txt", "folder", "fifo", "record.json"):
        assert any(name in problem and "link or no plain file" in problem for problem in merged.problems), name
