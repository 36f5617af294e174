"""Plans: whole engines, measured times, the matrix, the coverage against a base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import perf_runs
import pytest
from builders import make_limit, make_limits, planned_case

from harness.cli import lane
from harness.definitions.case import Located
from harness.definitions.runner import load_runners
from harness.errors import InvalidCaseError
from harness.lane.coverage import LOOSER, TRAILER, Coverage, compare_cases, compare_limits, compare_project
from harness.lane.durations import CaseTimes, History, read_history
from harness.lane.looser import pytest_settings
from harness.lane.plan import Plan, PlanError, lower_bound, make_plan, request_digest
from harness.lane.summary import plan_markdown
from harness.perf.baseline import build
from harness.records.limits import LimitFile

if TYPE_CHECKING:
    from conftest import Project

ROOT = Path(__file__).parents[2]
B200 = load_runners(ROOT / "runners")["b200"]
Make = Callable[..., Located]


def times(**seconds: float) -> History:
    """A history of runner b200 with a load of 10 s."""
    return History(runners={"b200": {name: CaseTimes(seconds=(one,), loads=(10.0,)) for name, one in seconds.items()}})


def test_engines_stay_whole_and_every_case_is_planned_once() -> None:
    cases = [
        planned_case("a1"),
        planned_case("b1", "m2"),
        planned_case("a2"),
        planned_case("c1", "m3"),
        planned_case("d1", "m4"),
        planned_case("x", runner="h200"),
    ]
    plan = make_plan(cases, B200, 3, times(a1=30, a2=30, b1=40, c1=30, d1=20))
    assert sorted(one.case for one in plan.cases) == ["a1", "a2", "b1", "c1", "d1"]
    places = {one.case: one.shard for one in plan.cases}
    assert places == {"a1": 1, "a2": 1, "b1": 2, "c1": 3, "d1": 3}
    assert plan.makespan == 70
    assert plan.lower_bound == 70  # c1 and d1 share a machine: 40 + 30
    assert plan.shards == 3
    assert plan.notes == ()
    assert Plan.model_validate_json(plan.to_json()) == plan


def test_the_matrix_has_one_job_a_shard_with_labels_and_a_deadline() -> None:
    plan = make_plan([planned_case("a"), planned_case("b", "m2")], B200, 2, times(a=7200, b=1))
    assert plan.matrix() == {
        "include": [
            {"shard": "1/2", "index": 1, "runs_on": list(B200.labels), "cases": 1, "minutes": 360},
            {"shard": "2/2", "index": 2, "runs_on": list(B200.labels), "cases": 1, "minutes": 30},
        ]
    }


def test_no_shard_is_empty_and_guesses_are_named() -> None:
    plan = make_plan([planned_case("a"), planned_case("b", "m2")], B200, 5, times(a=10))
    assert plan.shards == 2
    assert "2 of 5 shards" in plan.notes[0]
    assert "estimates" in plan.notes[1]
    assert {one.case: one.measured for one in plan.cases} == {"a": True, "b": False}
    # b is a case of the same work as a, so it is expected to take what a took
    assert {one.seconds for one in plan.cases} == {10}


def test_a_case_of_more_work_is_expected_to_take_longer() -> None:
    steps = planned_case("a").case.sampling.num_inference_steps
    twice = planned_case("b", "m2", sampling={"num_inference_steps": 2 * steps})
    plan = make_plan([planned_case("a"), twice], B200, 2, times(a=10))
    assert {one.case: one.seconds for one in plan.cases} == {"a": 10, "b": 20}
    unknown = make_plan([planned_case("a"), twice], B200, 2, History())
    first, second = sorted(unknown.cases, key=lambda one: one.seconds)
    assert second.seconds == pytest.approx(2 * first.seconds, abs=1e-3)


def test_an_engine_longer_than_the_ideal_is_split_and_the_plan_says_so() -> None:
    cases = [planned_case(f"a{index}") for index in range(4)] + [planned_case("b", "m2")]
    plan = make_plan(cases, B200, 2, times(a0=100, a1=100, a2=100, a3=100, b=5))
    assert {one.shard for one in plan.cases if one.case.startswith("a")} == {1, 2}
    assert "spread over 2 shards" in plan.notes[0]


def test_a_runner_without_cases_is_no_green_plan() -> None:
    with pytest.raises(PlanError) as refused:
        make_plan([planned_case("x", runner="h200")], B200, 2, History())
    assert refused.value.exit_code == 20


def test_the_bound_of_a_plan_is_that_of_its_units() -> None:
    assert lower_bound([], 3) == 0


def test_a_history_is_the_newest_few_and_a_broken_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    assert read_history([file]) == History()
    History(runners={"b200": {"a": CaseTimes(seconds=(1, 2, 3, 4, 5))}}).write(file)
    again = read_history([file, file])
    assert again.runners["b200"]["a"].seconds == (4, 5, 1, 2, 3, 4, 5)
    file.write_text("{")
    with pytest.raises(InvalidCaseError, match="not a history file"):
        read_history([file])


def test_every_kind_of_change() -> None:
    old = [
        planned_case("gone").case,
        planned_case("left").case,
        planned_case("same").case,
        planned_case("moved").case,
        planned_case("seed").case,
    ]
    waiver = {
        "expect": "regression:x",
        "owner": "o",
        "reason": "r",
        "issue": "https://x/1",
        "expires": "2030-01-01",
    }
    new = [
        planned_case("left", runner="h200").case,
        planned_case("same", waiver=waiver).case,
        planned_case("moved", "m9", env={"A": "1"}, expect="regression:noise").case,
        planned_case("seed", sampling={"seed": 7}).case,
        planned_case("new").case,
    ]
    found = compare_cases(old, new, "b200", {"gone": "replaced by new"})
    rows = {(change.kind, change.case, change.field, str(change.before), str(change.after)) for change in found}
    assert rows == {
        ("removed", "gone", "", "None", "None"),
        ("removed", "left", "runners", "b200", "None"),
        ("waived", "same", "waiver", "None", "until 2030-01-01: regression:x"),
        ("checkpoint", "moved", "model.path", "./m1", "./m9"),
        ("env", "moved", "env.A", "None", "1"),
        ("expectation", "moved", "expect", "pass", "regression:noise"),
        ("request", "seed", "sampling.seed", "0", "7"),
        ("added", "new", "", "None", "None"),
    }
    reasons = {change.case: change.reason for change in found if change.kind == "removed"}
    assert reasons == {"gone": "replaced by new", "left": ""}


WAIVER = {"expect": "regression:flicker_above_limit", "owner": "o", "reason": "r", "issue": "https://x/1"}


@pytest.mark.parametrize(
    ("field", "before", "after", "looser"),
    [
        ("metrics", (), ("ssim",), True),
        ("metrics", ("ssim", "mad"), ("mad",), True),
        ("metrics", ("mad",), ("ssim", "mad"), False),
        ("metrics", ("mad",), (), False),
        ("expect", "pass", "regression:nan", True),
        ("expect", "regression:nan", "pass", True),
        ("inspection", "gate", "report", True),
        ("inspection", "report", "gate", False),
        ("contracts", ("sglang==0.5.12",), (), True),
        ("contracts", (), ("sglang==0.5.12",), False),
        ("base", {"path": "./m1"}, None, True),
        ("pass_env", (), ("A",), True),
        ("quantization", {"transformer": "nvfp4"}, {"transformer": "bf16"}, True),
        ("quantization", {"transformer": "bf16"}, {"transformer": "nvfp4"}, False),
        ("env", {}, {"A": "1"}, False),
        ("backend", "diffusers", "command", True),
        ("execution", {"matmul": "auto"}, {"matmul": "dequantize"}, True),
        ("execution", {"matmul": "dequantize"}, {"matmul": "auto"}, False),
        ("execution", {"threads": 1}, {"threads": 2}, False),
        ("golden_of", None, "b", True),
        ("waiver", None, WAIVER | {"expires": "2026-12-01"}, False),  # its reason stands in it
        ("waiver", WAIVER | {"expires": "2026-12-01"}, WAIVER | {"expires": "2026-12-02"}, True),
        ("waiver", WAIVER | {"expires": "2026-12-02"}, WAIVER | {"expires": "2026-12-01"}, False),
        (
            "waiver",
            WAIVER | {"expires": "2026-12-01"},
            WAIVER | {"expires": "2026-12-01", "expect": "regression:flicker_above_limit,psnr_below_limit"},
            True,
        ),
        (
            "waiver",
            WAIVER | {"expires": "2026-12-01"},
            WAIVER | {"expires": "2026-12-31", "reason": "the kernel is not merged yet"},
            False,
        ),
    ],
)
def test_what_lets_more_through_needs_a_reason(field: str, before: object, after: object, looser: bool) -> None:
    old, new = (planned_case("a", **({field: value} if value is not None else {})).case for value in (before, after))
    if field == "base" and after is None:
        new = new.model_copy(update={"base": None})
    found = compare_cases([old], [new], "b200", {})
    assert any(change.looser for change in found) is looser
    assert bool(Coverage(against="main", changes=tuple(found)).without_reason()) is looser
    if looser:
        explained = compare_cases([old], [new], "b200", {f"a {field}": "because"})
        assert Coverage(against="main", changes=tuple(explained)).without_reason() == ()
        blank = compare_cases([old], [new], "b200", {f"a {field}": " \u200b"})
        assert Coverage(against="main", changes=tuple(blank)).without_reason()
        other = compare_cases([old], [new], "b200", {"a": "because", "b expect": "because"})
        assert Coverage(against="main", changes=tuple(other)).without_reason()


def test_a_case_that_leaves_another_runner_is_told_by_every_plan() -> None:
    old = [
        planned_case("a").case.model_copy(update={"runners": ("b200", "h200")}),
        planned_case("other", runner="h200").case,
    ]
    found = compare_cases(old, [planned_case("a").case], "b200", {})
    assert [(one.kind, one.case, one.field, one.before) for one in found] == [
        ("removed", "a", "runners", "h200"),
        ("removed", "other", "", None),
    ]
    assert len(Coverage(against="main", changes=tuple(found)).without_reason()) == 2


@pytest.mark.parametrize(
    ("change", "looser"),
    [
        ({"device_names": ("NVIDIA B200", "NVIDIA B300")}, True),
        ({"compute_capability": "9.0"}, True),
        ({"memory_gib": 10.0}, True),
        ({"memory_gib": 175.0}, False),
        ({"driver": None}, True),
        ({"driver": "560"}, True),
        ({"driver": "570.10"}, False),
        ({"native_formats": ("bf16",)}, True),  # a decoded product is green then
        ({"native_formats": ("bf16", "fp8", "nvfp4", "int8")}, False),
        ({"labels": ("ubuntu",)}, False),
        ({"harmless_env": ("SGLANG_*",)}, True),
        ({"packages": {"torch": ">=2.11"}}, False),
    ],
)
def test_a_profile_that_admits_more_needs_a_reason(change: dict[str, object], looser: bool) -> None:
    new = B200.model_copy(update=change)
    (found,) = compare_project({"b200": B200}, {"b200": new}, {}, {}, {})
    assert (found.kind, found.case, found.field, found.looser) == ("runner", "runners/b200.yaml", *change, looser)
    key = f"runners/b200.yaml {found.field}"
    (explained,) = compare_project({"b200": B200}, {"b200": new}, {}, {}, {key: "because"})
    assert explained.reason == "because"
    (gone,) = compare_project({"b200": B200}, {}, {}, {}, {})
    assert gone.looser


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\naddopts = -k 'not one' --attribution 0\n"),
        ("pyproject.toml", "[tool.quantgate]\nroot = 'other'\n"),
        ("pyproject.toml", "[tool.pytest]\naddopts = ['--deselect', 'cases']\n"),
        ("tox.ini", "[pytest]\ntestpaths = nothing\n"),
        ("setup.cfg", "[tool:pytest]\naddopts = -m 'not b200'\n"),
        (".pytest.ini", ""),
    ],
)
def test_settings_of_pytest_are_compared(tmp_path: Path, name: str, text: str) -> None:
    before = pytest_settings(tmp_path)
    (tmp_path / name).write_text(text)
    found = compare_project({}, {}, before, pytest_settings(tmp_path), {})
    assert found
    assert all(one.looser and one.kind == "pytest" for one in found)
    (tmp_path / name).write_text("[tool.ruff]\n" if name == "pyproject.toml" else "[flake8]\n")
    unchanged = name in ("pyproject.toml", "tox.ini", "setup.cfg")
    assert (compare_project({}, {}, before, pytest_settings(tmp_path), {}) == []) is unchanged


def limits(value: float | None, created: str = "then", direction: str = "higher_is_better") -> LimitFile:
    """Return a limit file with one metric."""
    limit = make_limit(value, direction=direction)
    return make_limits(case="a", runner="b200", limits=(limit,), author="me", reason="new kernel", created=created)


@pytest.mark.parametrize(
    ("before", "after", "looser"),
    [
        (limits(0.9), limits(0.8, "now"), True),
        (limits(0.8), limits(0.9, "now"), False),
        (limits(0.9), limits(None, "now"), True),
        (limits(None), limits(0.9, "now"), False),
        (limits(0.1, direction="lower_is_better"), limits(0.2, "now", "lower_is_better"), True),
        (limits(0.2, direction="lower_is_better"), limits(0.1, "now", "lower_is_better"), False),
        (limits(0.9), None, True),
    ],
)
def test_a_limit_that_admits_more_is_looser(before: LimitFile, after: LimitFile | None, looser: bool) -> None:
    (change,) = compare_limits({"a": before}, {"a": after} if after else {})
    assert change.looser is looser
    assert change.reason == ("new kernel" if after else "")


def test_an_edited_limit_without_a_new_reason_has_none() -> None:
    (change,) = compare_limits({"a": limits(0.9)}, {"a": limits(0.8)})
    assert change.looser
    assert change.reason == ""


@pytest.fixture
def branch(project: Project) -> Project:
    """A repository whose main branch has three cases."""
    project.write_cases({"one": ("m1", "pass"), "two": ("m2", "pass"), "three": ("m3", "pass")})
    (project.root / "thresholds/b200").mkdir(parents=True)
    project.git("init", "-q", "-b", "main")
    project.git("add", ".")
    project.git("commit", "-q", "-m", "base")
    project.git("switch", "-q", "-c", "change")
    return project


def plan_it(project: Project, capsys: pytest.CaptureFixture[str], against: str = "main") -> tuple[int, Plan, str]:
    """Plan the project; exit code, plan, and what was said to standard error."""
    out = project.root / "plan.json"
    code = lane.plan_command(root=project.root, runner="b200", shards=2, out=out, against=against)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["include"]
    return code, Plan.read(out), captured.err


def test_a_removal_fails_until_a_commit_says_why(branch: Project, capsys: pytest.CaptureFixture[str]) -> None:
    branch.write_cases({"one": ("m1", "pass"), "three": ("m4", "pass")})
    code, plan, message = plan_it(branch, capsys)
    assert code == 17
    assert "two: removed without a reason" in message
    assert f"{TRAILER}: two: <reason>" in message
    assert plan.coverage is not None
    assert [(change.kind, change.case) for change in plan.coverage.changes] == [
        ("checkpoint", "three"),
        ("removed", "two"),
    ]
    branch.git("commit", "-q", "-am", f"Drop two\n\n{TRAILER}: two: one covers it: see there")
    code, plan, _ = plan_it(branch, capsys)
    assert code == 0
    assert plan.coverage is not None
    assert plan.coverage.of("removed")[0].reason == "one covers it: see there"


def test_a_looser_limit_in_git_fails_without_a_reason(branch: Project, capsys: pytest.CaptureFixture[str]) -> None:
    file = branch.root / "thresholds/b200/one.json"
    limits(0.9).model_copy(update={"case": "one"}).write(file)
    branch.git("add", ".")
    branch.git("commit", "-q", "-m", "limits")
    branch.git("branch", "-f", "main")
    limits(0.5).model_copy(update={"case": "one"}).write(file)
    code, _, message = plan_it(branch, capsys)
    assert code == 17
    assert "limit of ssim loosened without a reason\n  next: quantgate regenerate --runner b200 --case one" in message
    limits(0.5, "now").model_copy(update={"case": "one"}).write(file)
    assert plan_it(branch, capsys)[0] == 0


def test_a_baseline_in_git_is_refused_if_it_is_edited_loosened_or_gone(
    branch: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: Any = perf_runs
    file = branch.root / "thresholds/b200/one.perf.json"

    def write(slower: float, created: str, reason: str = "") -> None:
        machine = runs.Machine()
        records = [machine.record(number, machine.generation(slower)) for number in range(8)]
        made, _ = build(runs.case(), "b200", records, author="ann", reason=reason)
        made.model_copy(update={"case": "one", "created": created}).write(file)

    write(1.0, "then")
    branch.git("add", ".")
    branch.git("commit", "-q", "-m", "a baseline")
    branch.git("branch", "-f", "main")
    assert plan_it(branch, capsys)[0] == 0
    write(1.2, "now")
    code, _, message = plan_it(branch, capsys)
    assert code == 17
    assert "one: baseline of step:b200 loosened without a reason" in message
    assert "quantgate regenerate --perf --runner b200 --case one --reason" in message
    write(1.2, "now", "the exact attention costs a fifth")
    assert plan_it(branch, capsys)[0] == 0
    file.write_text(file.read_text().replace('"reason":"the exact', '"reason":"an exact').replace("the exact", "an ex"))
    code, _, message = plan_it(branch, capsys)
    assert code == 17
    assert "thresholds/b200/one.perf.json: was changed after it was made; its seal does not fit" in message
    file.write_text("{")
    code, _, message = plan_it(branch, capsys)
    assert code == 17
    assert "thresholds/b200/one.perf.json: is no baseline" in message
    file.unlink()
    code, _, message = plan_it(branch, capsys)
    assert code == 17
    assert "one: baseline of time and memory removed without a reason" in message
    branch.git("commit", "-q", "-am", f"No baseline\n\n{TRAILER}: one: the machine was retired")
    assert plan_it(branch, capsys)[0] == 0


def test_what_lets_more_through_is_refused_until_a_commit_says_why(
    branch: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    file = branch.root / "cases/lane.yaml"
    file.write_text(file.read_text().replace("one: {", "one: {metrics: [mad], "))
    ini = branch.root / "pytest.ini"
    ini.write_text(ini.read_text().replace("importlib", "importlib --attribution 0"))
    code, plan, message = plan_it(branch, capsys)
    assert code == 17
    assert (
        f"one: metrics lets more through without a reason\n  next: git commit --amend --trailer '{LOOSER}: " in message
    )
    assert plan.coverage is not None
    assert "expectation, lets more through" in plan_markdown(plan)
    trailers = f"{LOOSER}: one metrics: the others do not hold here\n{LOOSER}: pytest pytest.ini:addopts: too slow"
    branch.git("commit", "-q", "-am", f"Look at one metric\n\n{trailers}")
    code, plan, message = plan_it(branch, capsys)
    assert (code, message.count("without a reason")) == (0, 0), message


def test_a_limit_file_that_was_edited_by_hand_is_refused_whatever_it_says(
    branch: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    file = limits(0.9).model_copy(update={"case": "one"}).write(branch.root / "thresholds/b200/one.json")
    branch.git("add", ".")
    branch.git("commit", "-q", "-m", "limits")
    branch.git("branch", "-f", "main")
    file.write_text(file.read_text().replace('"limit": 0.9', '"limit": 0.95').replace('"then"', '"now"'))
    code, plan, message = plan_it(branch, capsys)
    assert code == 17
    assert "thresholds/b200/one.json: the file was changed after its limits were placed" in message
    assert "cannot be used: thresholds/b200/one.json" in plan_markdown(plan).replace("\\", "")
    file.write_text("{")
    assert plan_it(branch, capsys)[0] == 17


def test_limits_that_went_with_their_golden_need_a_reason_that_can_be_given(
    branch: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    file = branch.root / "thresholds/b200/one.json"
    limits(0.9).model_copy(update={"case": "one"}).write(file)
    branch.git("add", ".")
    branch.git("commit", "-q", "-m", "limits")
    branch.git("branch", "-f", "main")
    file.unlink()
    branch.git("commit", "-q", "-am", "another golden")
    code, plan, message = plan_it(branch, capsys)
    assert code == 17
    assert "one: limits removed without a reason" in message
    assert "quantgate regenerate --runner b200 --case one --reason '<reason>'; or" in message
    assert plan.coverage is not None
    assert "limits removed" in plan_markdown(plan)
    branch.git("commit", "-q", "--amend", "--no-edit", "--trailer", f"{TRAILER}: one: another checkpoint")
    code, plan, _ = plan_it(branch, capsys)
    assert code == 0
    assert plan.coverage is not None
    (change,) = plan.coverage.of("limit")
    assert (change.before, change.after, change.reason) == ({"ssim": 0.9}, None, "another checkpoint")


def test_nothing_changed(branch: Project, capsys: pytest.CaptureFixture[str]) -> None:
    code, plan, _ = plan_it(branch, capsys)
    assert code == 0
    assert plan.coverage is not None
    assert plan.coverage.changes == ()
    assert plan.coverage.against.startswith("main (")


def test_a_base_that_todays_rules_refuse_is_said_and_not_hidden(
    branch: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (branch.root / "cases/lane.yaml").read_text()
    (branch.root / "cases/lane.yaml").write_text(good.replace("prompt: pass", "promt: pass"))
    branch.git("commit", "-q", "-am", "broken")
    branch.git("branch", "-f", "main")
    (branch.root / "cases/lane.yaml").write_text(good)
    _, plan, _ = plan_it(branch, capsys)
    assert plan.coverage is not None
    assert any("cases/lane.yaml" in problem for problem in plan.coverage.unreadable)


def test_a_base_without_cases_adds_all(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.git("init", "-q", "-b", "main")
    project.git("commit", "-q", "--allow-empty", "-m", "empty")
    project.write_cases({"one": ("m1", "pass")})
    _, plan, _ = plan_it(project, capsys)
    assert plan.coverage is not None
    assert [change.kind for change in plan.coverage.changes] == ["added"]


@pytest.mark.parametrize("reference", ["nowhere", "--output=x"])
def test_a_base_that_is_no_commit(branch: Project, reference: str) -> None:
    with pytest.raises(InvalidCaseError, match="no commit"):
        lane.plan_command(root=branch.root, runner="b200", shards=1, out=branch.root / "p.json", against=reference)


def test_an_unknown_runner_and_no_shards(branch: Project) -> None:
    with pytest.raises(InvalidCaseError, match="b300"):
        lane.plan_command(root=branch.root, runner="b300", shards=1)
    with pytest.raises(InvalidCaseError, match="at least 1"):
        lane.plan_command(root=branch.root, runner="b200", shards=0)


def test_the_digest_of_a_request_is_that_of_the_whole_case() -> None:
    assert request_digest(planned_case("a").case) == request_digest(planned_case("a").case)
    assert request_digest(planned_case("a").case) != request_digest(planned_case("a", description="other").case)
