"""A program of one's own, from first run to edited program: what docs/bring-your-runtime.md promises."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from harness.definitions.loading import load_cases
from harness.outcomes import Outcome

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "command"
IMPORT = "import numpy as np\nimport torch\n"
EDIT = """
import numpy as np
from safetensors.numpy import save_file

save_file({"frames": np.zeros((5, 64, 96, 3), np.float32)}, sys.argv[2])
Path(sys.argv[3]).write_text("none")
sys.exit()
"""
"""Frames without torch, whose import takes longer than the run, and receipts that nobody can read."""


def test_the_example_of_the_docs_runs_and_an_edit_of_it_has_a_name(project: Any) -> None:
    shutil.copytree(EXAMPLE, project.root, dirs_exist_ok=True)
    shutil.rmtree(project.root / "model")
    shutil.copytree(ROOT / "tiny" / "weights", project.root / "model")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    file = project.root / "cases" / "my_runtime.yaml"
    shorter = file.read_text().replace("num_frames: 17", "num_frames: 5")  # every frame and step costs the same again
    file.write_text(shorter.replace("num_inference_steps: 8", "num_inference_steps: 2"))
    run = ("cases/my_runtime.yaml", "--runner", "cpu", "--no-report")
    project.pytest(*run, "--run-id", "first", PATH=path)
    first = project.records("first")["my_runtime"]
    assert first.verdict.outcome is Outcome.GOLDEN_MISSING, (first.verdict, first.log_tail)
    generation = first.generation
    assert generation is not None
    assert generation.unproven == ""
    assert generation.receipts.count("transformer")
    assert (generation.delivery.container, generation.delivery.costs) == ("safetensors", "")
    script = project.root / "runtimes" / "my_runtime.py"
    assert script.read_text().count(IMPORT) == 1
    script.write_text(script.read_text().replace(IMPORT, EDIT))
    project.pytest(*run, "--run-id", "second", PATH=path)
    second = project.records("second")["my_runtime"]
    assert (second.verdict.outcome, second.verdict.cause) == (Outcome.INFRA, "protocol")
    assert "receipts cannot be read" in second.verdict.summary


def test_a_crash_shows_its_last_words_and_an_edited_program_is_what_changed(accepted: Any) -> None:
    text = accepted.program.read_text()
    accepted.program.write_text(text + "\n# edited\n")
    accepted.pytest("cases", "--runner", "cpu", "--run-id", "second")
    record = accepted.records("second")["one"]
    assert record.verdict.outcome is Outcome.PASS
    assert [change.field for change in record.changes] == ["program.program.py"]
    accepted.program.write_text(text + "\nprint('to stdout')\nraise SystemExit('kernels/a.cu: no such image')\n")
    printed = accepted.pytest("cases", "--runner", "cpu", "--run-id", "third")
    crash = accepted.records("third")["one"]
    assert crash.verdict.outcome is Outcome.INFRA
    assert "ended with exit status 1; its stderr ends: kernels/a.cu: no such image" in crash.verdict.summary
    assert "kernels/a.cu: no such image" in printed.stdout
    (finding,) = crash.verdict.findings
    assert (finding.data["stdout"], finding.data["stderr"]) == ("to stdout", "kernels/a.cu: no such image")
    page = (accepted.root / "runs" / "third" / "report" / "cases" / "one.html").read_text()
    assert "to stdout" in page


def test_the_case_on_the_page_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "bring-your-runtime.md").read_text()
    (tmp_path / "a.yaml").write_text(re.findall(r"```yaml\n(cases:.*?)```", text, re.DOTALL)[0])
    assert [one.case.id for one in load_cases([tmp_path / "a.yaml"], tmp_path, runners=["b200"])] == ["my_runtime"]
