"""Just enough of GitHub Actions to run the workflow's own commands: matrix, environment, artifacts, conditions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_IGNORED = ("actions/checkout@", "actions/setup-python@", "actions/cache/")


def load_workflow(path: Path) -> dict[str, Any]:
    """A workflow file as data."""
    loaded: dict[str, Any] = YAML(typ="safe").load(path)
    return loaded


@dataclass
class Runner:
    """Runs jobs of one workflow, each in a checkout of its own.

    Args:
        workflow: the workflow as data.
        expressions: value of every expression that is not about the matrix; an unknown one is an error.
        environment: of every step.
        artifacts: folder that stands for GitHub's artifact storage.
    """

    workflow: dict[str, Any]
    expressions: dict[str, Any]
    environment: dict[str, str]
    artifacts: Path
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""

    def job(self, name: str, checkout: Path, matrix: dict[str, Any] | None = None) -> dict[str, int]:
        """Run the steps of a job; exit code by step name."""
        job = self.workflow["jobs"][name]
        known = self.expressions | {f"matrix.{key}": value for key, value in (matrix or {}).items()}
        environment = self.environment | self._environment(self.workflow, known) | self._environment(job, known)
        if str(job["runs-on"]).startswith("ubuntu-"):
            hosted = str(Path(__file__).with_name("hosted"))
            environment["PYTHONPATH"] = os.pathsep.join([hosted, environment["PYTHONPATH"]])
        folder = job.get("defaults", {}).get("run", {}).get("working-directory", ".")
        cwd = checkout / self._value(folder, known)
        codes: dict[str, int] = {}
        failed = False
        for step in job["steps"]:
            condition = str(step.get("if", ""))
            if failed and "always()" not in condition and "cancelled()" not in condition:
                continue
            uses = step.get("uses", "")
            if uses.startswith(_IGNORED) or step.get("name") == "Install":
                continue
            if uses:
                self._artifact(uses, step["with"], known, checkout)
                continue
            assert "${{" not in step["run"], step  # text of others never becomes part of a command
            code = self._run(step["run"], cwd, environment | self._environment(step, known))
            codes[step["name"]] = code
            failed = failed or code != 0
        return codes

    def _run(self, command: str, checkout: Path, environment: dict[str, str]) -> int:
        output, summary = checkout / ".output", checkout / ".summary"
        files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=checkout,
            env=environment | files,
            capture_output=True,
            text=True,
            timeout=300,
        )
        print(f"$ {command}\n{done.stdout}{done.stderr}")
        if output.exists():
            self.outputs |= dict(line.split("=", 1) for line in output.read_text().splitlines())
        if summary.exists():
            self.summary = summary.read_text()
        return done.returncode

    def _artifact(self, uses: str, options: dict[str, Any], known: dict[str, Any], checkout: Path) -> None:
        printed = {key: self._value(value, known) for key, value in options.items()}
        if uses.startswith("actions/upload-artifact@"):
            source = checkout / printed["path"]
            target = self.artifacts / printed["name"]
            if source.is_dir():
                shutil.copytree(source, target)
            elif source.exists():
                target.mkdir(parents=True)
                shutil.copy(source, target)
        elif uses.startswith("actions/download-artifact@"):
            place = checkout / printed.get("path", ".")
            if "name" in printed:
                shutil.copytree(self.artifacts / printed["name"], place, dirs_exist_ok=True)
            else:  # a pattern: one folder an artifact
                for found in self.artifacts.glob(printed["pattern"]):
                    shutil.copytree(found, place / found.name)
        else:
            raise AssertionError(f"an action that this runner does not know: {uses}")

    def _environment(self, place: dict[str, Any], known: dict[str, Any]) -> dict[str, str]:
        return {name: self._value(value, known) for name, value in place.get("env", {}).items()}

    @staticmethod
    def _value(value: object, known: dict[str, Any]) -> str:
        return _EXPRESSION.sub(lambda match: str(known[match[1]]), str(value))


def matrix_of(outputs: dict[str, str]) -> list[dict[str, Any]]:
    """The rows that ``fromJSON`` makes of the plan job's output."""
    rows: list[dict[str, Any]] = json.loads(outputs["matrix"])["include"]
    return rows


def clean(environment: dict[str, str]) -> dict[str, str]:
    """An environment as a job has it."""
    return {**environment, "CI": "true", "HOME": os.environ.get("HOME", "/")}


def alive(pids: list[int]) -> list[int]:
    """Those of ``pids`` that run; a zombie that waits for a reaper in a container without one does not."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found
