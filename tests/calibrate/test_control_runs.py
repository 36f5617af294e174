"""Disturbed and broken runs through real engines; an interruption loses nothing that was done."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import make_case
from fault_cases import fault_case

from harness.calibrate.faults import runs
from harness.calibrate.faults.weights import weight_faults
from harness.frames.clip import Clip
from harness.records.identity import Device


def test_runs_are_made_once_and_read_afterwards(
    random_wan: Path, wan_case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = wan_case.model_copy(update={"model": wan_case.model.model_copy(update={"path": str(random_wan / "bf16")})})
    context: Any = SimpleNamespace(
        root=random_wan,
        folder=tmp_path,
        device=Device(kind="cpu", name="x86_64"),
        device_env={},
        runtime_env=lambda _case: {},
        runner=SimpleNamespace(name="cpu"),
        allow_python_backend=False,
    )
    message: list[str] = []
    before = {path: path.read_bytes() for path in (random_wan / "bf16" / "transformer").iterdir()}
    gain = tuple(fault for fault in weight_faults() if fault.name in ("gain", "nibble_swap"))
    noisy = runs.noisy_runs(context, case, "origin", 2, message.append)
    broken = runs.broken_runs(context, case, "origin", message.append, gain, (0.5, 1.0))
    assert [run.label for run in noisy] == ["ulp-initial-1", "ulp-between-2"]
    assert [(run.fault, run.strength) for run in broken] == [("gain", 0.5), ("gain", 1.0)], "bf16 has no nibbles"
    assert message == [f"wan: {run.label}" for run in (*noisy, *broken)]
    clips: list[Clip] = [run.clip for run in (*noisy, *broken)]
    assert len({clip.digest for clip in clips}) == 4
    assert {path: path.read_bytes() for path in before} == before

    # one run is torn, as by a full disk: it alone is made again
    (tmp_path / "controls" / "wan" / "origin" / "gain@1" / "clip.safetensors").write_bytes(b"\0" * 9)
    started: list[str] = []

    def refuse(*_: object, **__: object) -> None:
        started.append("engine")
        raise runs.InfraError("no engine may start")

    monkeypatch.setattr(runs, "EngineOwner", refuse)
    assert [run.clip for run in runs.noisy_runs(context, case, "origin", 2, message.append)] == clips[:2]
    assert started == []
    again = runs.broken_runs(context, case, "origin", message.append, gain, (0.5, 1.0))
    assert [run.clip for run in again] == clips[2:3]
    assert started == ["engine"]
    assert runs.noisy_runs(context, case, "another origin", 0, message.append) == ()
    with pytest.raises(runs.InfraError, match="no engine may start"):
        runs.noisy_runs(context, case, "another origin", 2, message.append)
    assert message[-1] == "wan: gain@1 could not be run and is left out: no engine may start"


BACKEND = f"""
import sys
from pathlib import Path

sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
from fault_backend import FaultBackend
from harness.definitions.case import Case

class Disturbed(FaultBackend):
    def methods(self):
        return {{"generate_perturbed": self.again}}

    def again(self, params, emit):
        case = Case.model_validate(params["case"])
        return self.generate(case, Path(params["out_dir"]), emit).model_dump(mode="json")
"""


def test_a_backend_of_ones_own_is_disturbed_where_it_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(BACKEND)
    (tmp_path / "model").mkdir()
    case = fault_case(backend=f"{tmp_path / 'own.py'}:Disturbed", model={"path": "./model"})
    fields: dict[str, Any] = {
        "root": tmp_path,
        "device": Device(kind="cpu", name="x86_64"),
        "device_env": {},
        "runtime_env": lambda _case: {},
    }
    message: list[str] = []
    for allowed, count in ((False, 0), (True, 1)):
        context: Any = SimpleNamespace(
            **fields, folder=tmp_path / str(allowed), runner=SimpleNamespace(name="cpu"), allow_python_backend=allowed
        )
        assert len(runs.noisy_runs(context, case, "origin", 1, message.append)) == count
    assert "no disturbed runs" in message[0]


PROGRAM = str(Path(__file__).parents[1] / "engine" / "a_runtime.py")


@pytest.mark.parametrize(
    ("fault", "arguments", "labels", "words"),
    [
        ("disturb", ["{disturb}"], ["ulp-initial-1", "ulp-between-2", "ulp-both-3"], "ulp-both-3"),
        ("fine", [], ["repeat-1", "repeat-2", "repeat-3", "repeat-4"], "bit-exact, so no more are made"),
        ("random", [], ["repeat-1", "repeat-2", "repeat-3"], "repeat-3"),
    ],
)
def test_a_foreign_program_is_disturbed_or_repeated(
    tmp_path: Path, fault: str, arguments: list[str], labels: list[str], words: str
) -> None:
    (tmp_path / "model").mkdir()
    command = [sys.executable, PROGRAM, "{case_json}", "{out}", fault, *arguments]
    sampling = {"height": 16, "width": 24, "num_inference_steps": 1}
    case = make_case(backend="command", command=command, sampling=sampling)
    context: Any = SimpleNamespace(
        root=tmp_path, folder=tmp_path / "run", device=Device(kind="cpu", name="x86_64"), device_env={},
        runtime_env=lambda _case: {}, runner=SimpleNamespace(name="cpu"), allow_python_backend=False,
    )  # fmt: skip
    message: list[str] = []
    made = runs.noisy_runs(context, case, "origin", 5 if fault == "fine" else 3, message.append)
    assert [run.label for run in made] == labels
    assert len({run.clip.digest for run in made}) == (1 if fault == "fine" else 3)
    assert words in message[-1]
