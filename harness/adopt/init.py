"""`quantgate init`: the files of a project, written where they are missing and never changed where they are there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal, NamedTuple

from harness.adopt import embedded, pytest_settings
from harness.adopt.source import Source
from harness.definitions.case import Located
from harness.definitions.loading import check_cases
from harness.definitions.schemas import SCHEMAS, text_of
from harness.errors import InvalidCaseError
from harness.git import git_top
from harness.project import case_files_below
from harness.reading import UnreadableError, read_bytes, read_text
from harness.records.base import write_text_atomic
from harness.records.identity import Device
from harness.text import listed

IGNORED: Final = ("/runs/", "/.quantgate/")
IGNORED_BY_DEMO: Final = ("/demo/",)
SCHEMA_FOLDER: Final = "schemas"
WORKFLOW: Final = ".github/workflows/quantgate.yml"
_EMPTY: Final = ("thresholds", "goldens")
_FORMATS: Final = ((8.9, "fp8"), (10.0, "nvfp4"))
"""Compute capability from which on a GPU multiplies a format itself."""

State = Literal["written", "added", "kept", "by hand"]


class Step(NamedTuple):
    """Change that `init` made to one file."""

    state: State
    path: str
    note: str = ""


class Made(NamedTuple):
    """Steps that `init` took, and the next command."""

    steps: tuple[Step, ...]
    commands: tuple[str, ...]
    """The next three commands, each with a comment behind ``#``."""
    notes: tuple[str, ...]


def init(root: Path, devices: tuple[Device, ...], source: Source, *, demo: bool = False) -> Made:
    """Write the files of a project below ``root``. Existing files stay as they are: a second call changes nothing.

    Args:
        root: an existing folder; of a repository, or of a folder in one.
        devices: the GPUs of this machine; each model of GPU becomes a runner.
        source: where quantgate comes from, for the workflow.
        demo: also bring the embedded model, two cases of it, a golden and its limits.

    Raises:
        InvalidCaseError: ``root`` is no folder, or a file lies where a folder belongs.
    """
    if not root.is_dir():
        raise InvalidCaseError("there is no such folder", place=str(root), remedy=f"mkdir -p {root}")
    taken = [name for name in ("cases", "runners", *_EMPTY, SCHEMA_FOLDER) if (root / name).exists()]
    for name in taken:
        if not (root / name).is_dir():
            raise InvalidCaseError("a file lies where a folder belongs", place=str(root / name), remedy="move it away")
    steps: list[Step] = []
    steps += [_file(root, f"{SCHEMA_FOLDER}/{name}", text_of(name), _schema_note(root, name)) for name in _schemas()]
    profiles = _runners(devices)
    steps += [_file(root, f"runners/{name}.yaml", text) for name, text in profiles.items()]
    if demo:
        steps += _demo(root)
    elif not case_files_below(root / "cases").files:
        steps.append(_file(root, "cases/first.yaml", _template("first.yaml")))
    steps += [_file(root, f"{name}/.gitkeep", "") for name in _EMPTY if not _filled(root / name)]
    steps.append(_ignore(root, (*IGNORED, *(IGNORED_BY_DEMO if demo else ()))))
    steps.append(_pytest(root))
    runner = next((name for name in profiles if name not in ("cpu", "b200")), "b200")
    steps.append(_workflow(root, source, runner))
    return Made(tuple(steps), _commands(root, runner, demo), tuple(_notes(root, source, steps)))


def _schemas() -> tuple[str, ...]:
    return tuple(sorted(SCHEMAS))


def _schema_note(root: Path, name: str) -> str:
    path = root / SCHEMA_FOLDER / name
    old = path.is_file() and read_bytes(path) != text_of(name).encode()
    return f"of another version; quantgate schema --out {SCHEMA_FOLDER}" if old else ""


def _runners(devices: tuple[Device, ...]) -> dict[str, str]:
    """Profiles by name: the CPU, each model of GPU in this machine, and the B200."""
    profiles = {"cpu": _template("cpu.yaml")}
    for device in devices:
        name = _runner_name(device.name)
        if device.kind == "cuda" and name != "b200":
            profiles.setdefault(name, _gpu_profile(name, device))
    return {**profiles, "b200": _template("b200.yaml")}


def _runner_name(device: str) -> str:
    """``h200`` of ``NVIDIA H200``, ``rtx_6000_ada`` of ``NVIDIA RTX 6000 Ada Generation``."""
    words = re.sub(r"[^a-z0-9]+", "_", device.lower().removeprefix("nvidia ").removesuffix(" generation")).strip("_")
    return (words if words[:1].isalpha() else f"gpu_{words}")[:32].rstrip("_")


def _gpu_profile(name: str, device: Device) -> str:
    capability = float(device.compute_capability or 0)
    formats = ["bf16", *(fmt for least, fmt in _FORMATS if capability >= least)]
    memory = int((device.memory_bytes or 0) / 2**30 * 0.93)
    text = _template("gpu.yaml")
    values = {
        "NAME": name,
        "DEVICE": json.dumps(device.name),
        "CAPABILITY": str(device.compute_capability),
        "FORMATS": ", ".join(formats),
        "LABEL": name.replace("_", "-"),
        "MEMORY": str(memory),
    }
    return _filled_in(text, values)


def _demo(root: Path) -> list[Step]:
    """The embedded model, its cases, one golden with its limits. A golden that the project accepted stays."""
    home = embedded.embedded_root()
    steps = [
        Step("written" if embedded.copy_model(root) else "kept", f"{embedded.MODEL}/"),
        Step("written" if embedded.export_quantized(root) else "kept", f"{embedded.QUANTIZED}/"),
        _file(root, "cases/demo.yaml", _template("demo.yaml")),
    ]
    golden, limits = Path("goldens/cpu") / embedded.CASE, Path("thresholds/cpu") / f"{embedded.CASE}.json"
    fresh = not (root / golden).exists() and not (root / limits).exists()
    if fresh:
        shutil.copytree(home / golden, root / golden)
        (root / limits).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(home / limits, root / limits)
    return [
        *steps,
        Step("written" if fresh else "kept", f"{golden}/"),
        Step("written" if fresh else "kept", str(limits)),
    ]


def _file(root: Path, name: str, text: str, note: str = "") -> Step:
    path = root / name
    if path.exists() or path.is_symlink():
        return Step("kept", name, note)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, text)
    return Step("written", name)


def _filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _ignore(root: Path, patterns: tuple[str, ...]) -> Step:
    path = root / ".gitignore"
    try:
        before = read_text(path) if path.is_file() else ""
    except UnreadableError as error:
        return Step("by hand", ".gitignore", f"{error.message}; add {', '.join(patterns)}")
    ignored_lines = {line.strip().strip("/") for line in before.splitlines()}
    new = [line for line in patterns if line.strip("/") not in ignored_lines]
    if not new:
        return Step("kept", ".gitignore")
    gap = "" if not before or before.endswith("\n") else "\n"
    write_text_atomic(path, before + gap + "".join(f"{line}\n" for line in new))
    return Step("added", ".gitignore", ", ".join(new))


def _pytest(root: Path) -> Step:
    setting = pytest_settings.configure(root)
    name = setting.path.name
    if setting.by_hand:
        return Step("by hand", name, f"add to {setting.by_hand}")
    return Step(
        "added" if setting.changed else "kept", name, f"{pytest_settings.KEY} = cases" if setting.changed else ""
    )


def _workflow(root: Path, source: Source, runner: str) -> Step:
    """The workflow lies at the top of the git repository, and names the folder of the project if that is another."""
    top = git_top(root) or root.resolve()
    folder = root.resolve().relative_to(top).as_posix()
    values = {
        "SOURCE": source.repository,
        "REF": source.ref,
        "RUNNER": runner,
        "REQUIREMENT": source.requirement,
        "FOLDER": "" if folder == "." else f", folder: {json.dumps(folder)}",
    }
    step = _file(top, WORKFLOW, _filled_in(_template("workflow.yml"), values))
    return step if folder == "." else step._replace(path=f"{top / WORKFLOW}")


def _commands(root: Path, runner: str, demo: bool) -> tuple[str, ...]:
    files = sorted(case_files_below(root / "cases").files)
    if files and [path.name for path in files] != ["first.yaml"] and not demo:  # the project had cases before
        located, _ = _cases(root)
        first = next(iter(located), None)
        place = "" if first is None else shlex.quote((root / first.path).relative_to(root).as_posix())
        run = () if first is None else (f"pytest {place} --runner {first.case.runners[0]}",)
        return (
            "quantgate cases             # what the cases run, and on which runner",
            *run,
            "quantgate review            # what the first run produced, to accept or reject",
        )
    if demo:
        return (
            "pytest cases/demo.yaml --runner cpu      # two cases on the CPU: both green",
            "quantgate inspect --case nvfp4           # the encoding that the checkpoint's bytes prove, without a run",
            "quantgate cases                          # then write a case of your own beside them",
        )
    return (
        "quantgate cases             # what cases/first.yaml runs; edit it",
        "quantgate resolve           # writes the commits of the checkpoints that it names on the hub",
        f"{f'pytest -m {runner}':<27} # on the machine with the GPU; the first run leaves a candidate to accept",
    )


def _cases(root: Path) -> tuple[tuple[Located, ...], list[str]]:
    """Return the valid cases of the project, and the names of the files in ``cases/`` that have faults."""
    files = sorted(case_files_below(root / "cases").files)
    try:
        located, problems = check_cases(files, root)
    except InvalidCaseError:  # a runner profile that cannot be read; `quantgate cases` says so
        return (), []
    return located, sorted({str(problem.path) for problem in problems})


def _notes(root: Path, source: Source, steps: list[Step]) -> list[str]:
    notes = []
    if faulty := _cases(root)[1]:
        notes.append(
            f"pytest will refuse {listed(faulty)}: no case files of quantgate, or with faults, which `quantgate cases` "
            "lists. If they belong to another program, keep quantgate's cases in a folder of their own: write its name "
            "behind quantgate_cases in pytest's settings"
        )
    written = any(step.path.endswith(WORKFLOW) and step.state == "written" for step in steps)
    if written and not source.is_known:
        notes.append(
            f"{WORKFLOW} names {source.repository}@{source.ref}: put repository and commit there from which you use "
            "quantgate (or delete the file and type: quantgate init --source owner/quantgate@<commit>)"
        )
    others = [name for name in ("tests", "test") if (root / name).is_dir()]
    if others and any(step.state == "added" and step.note.startswith(pytest_settings.KEY) for step in steps):
        notes.append(f"a plain `pytest` collects the cases too; `pytest {others[0]}` leaves them out")
    return notes


def _template(name: str) -> str:
    return files("harness.adopt").joinpath("templates", name).read_text(encoding="utf-8")


def _filled_in(text: str, values: dict[str, str]) -> str:
    """Replace each ``@NAME@``. A value is never looked at again."""
    return re.sub(r"@([A-Z]+)@", lambda match: values.get(match[1], match[0]), text)
