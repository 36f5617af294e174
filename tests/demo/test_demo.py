"""`make demo`, replayed under every instruction set that this machine can force, and with two threads.

The CPU runner's class is the architecture, so its goldens and limits must hold under all of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from children import child_environment

from harness.definitions.loading import load_cases
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord
from harness.session.perturbation import CPU, NONE, Perturbation, cpu_flags

REPOSITORY = Path(__file__).parents[2]
FILES = ("cases/tiny.yaml", "cases/incident.yaml")
FORCED = (NONE, *(one for one in CPU if one.name.startswith(("isa-", "threads-"))))


DEFAULT = next(one for one in CPU if one.name == "isa-default")


@pytest.mark.parametrize(
    "perturbation",
    [pytest.param(one, marks=() if one is NONE else pytest.mark.slow) for one in FORCED],
    ids=lambda one: one.name,
)
def test_every_case_ends_as_it_must(perturbation: Perturbation, tmp_path: Path) -> None:
    replay(perturbation, tmp_path)


def test_quantized_cases_pass_on_the_instruction_set_that_every_cpu_has(tmp_path: Path) -> None:
    """The case `bf16_env` of the whole suite does the same for BF16."""
    replay(DEFAULT, tmp_path, ("fp8", "nvfp4"))


def replay(perturbation: Perturbation, tmp_path: Path, only: tuple[str, ...] = ()) -> None:
    """Run the suite, or only some of its cases, and compare how each case ends with how it must end."""
    if perturbation.needs and perturbation.needs not in cpu_flags():
        pytest.skip(f"this CPU has no {perturbation.needs}")
    assert (REPOSITORY / "tiny" / "exports" / "nvfp4").is_dir(), "make tiny/exports/.made"
    options = [
        "--runner",
        "cpu",
        "--perturbation",
        perturbation.name,
        "--run-id",
        "demo",
        f"--runs={tmp_path}",
    ]
    options += ["--no-report", "--attribution", "0"]  # only what decides
    asked = [f"{FILES[0]}::{name}" for name in only] or FILES
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *asked, "-p", "no:cacheprovider", "-q", *options],
        cwd=REPOSITORY,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    records = [CaseRecord.read(path) for path in (tmp_path / "demo").glob("*/record.json")]
    cases = [one.case for one in load_cases([REPOSITORY / file for file in FILES], REPOSITORY)]
    wanted = {case.id for case in cases if "cpu" in case.runners and (not only or case.id in only)}
    assert {record.case for record in records} == wanted
    assert {record.verdict.outcome for record in records} == {Outcome.PASS}
    if not only:
        observed = {record.case: record.verdict.observed for record in records if record.request["expect"] != "pass"}
        assert set(observed.values()) == {Outcome.CHECKPOINT_FAULT, Outcome.REGRESSION}
    capability = perturbation.env.get("ATEN_CPU_CAPABILITY", "").upper()
    ran = {record.fingerprint.cpu_capability for record in records if record.fingerprint and not record.request["env"]}
    assert not capability or ran == {capability}
