"""Find the changes of a case, a runner profile or pytest's settings that let more through than before.

Such a change is not wrong by itself: a control may be renamed, a runner retired. It is refused until a trailer of a
commit gives the reason, where a reviewer reads it.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from harness.definitions.case import Case, PerfSettings
from harness.definitions.runner import RunnerProfile
from harness.errors import QuantgateError
from harness.project import Project
from harness.reading import UnreadableError, parse_toml, read_text
from harness.records.base import Json

PYTEST_FILES = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
"""Files in which pytest looks for its settings."""
_ALWAYS = frozenset({"expect", "golden_of"})
"""Fields of a case whose every change counts as looser: another result passes than before."""


def lets_more_through(field: str, old: Case, new: Case) -> bool:
    """Return whether the change of ``field``, a top-level field of a case, lets more through or checks less.

    Args:
        field: the field in which the two cases differ.
        old: the case before the change.
        new: the case after it.
    """
    if field in _ALWAYS:
        return True
    if field == "inspection":
        return new.inspection == "report"
    if field == "metrics":  # an empty list is the whole gating set
        return bool(new.metrics) and not set(old.metrics or ("the gating set",)) <= set(new.metrics)
    if field == "contracts":
        return not set(old.contracts) <= set(new.contracts)
    if field == "base":
        return new.base is None
    if field == "backend":  # another program proves other things, or nothing, about the kernels that ran
        return True
    if field == "execution":  # only `auto` must show that the device's own kernels ran
        return old.execution.matmul == "auto" and new.execution.matmul != "auto"
    if field == "pass_env":  # no record holds the value of such a variable
        return not set(new.pass_env) <= set(old.pass_env)
    if field == "quantization":
        formats = old.quantization.model_dump().items()
        return any(was != "bf16" and getattr(new.quantization, name) == "bf16" for name, was in formats)
    if field == "waiver":
        return _waives_more(old, new)
    if field == "perf":
        return _gates_less(old.perf, new.perf)
    return False


def _gates_less(old: PerfSettings, new: PerfSettings) -> bool:
    """Return whether time and memory gate less than before: a larger effect, fewer measures, fewer generations."""
    return (
        new.effect > old.effect
        or new.memory_effect > old.memory_effect
        or not set(old.gates) <= set(new.gates)
        or new.generations < old.generations
        or (old.improvement == "red" and new.improvement == "report")
    )


def _waives_more(old: Case, new: Case) -> bool:
    """Return whether the waiver lasts longer or covers more than before without a new reason or issue.

    A new waiver, or a waiver with a new reason or issue, states its own reason.
    """
    was, now = old.waiver, new.waiver
    if was is None or now is None or (was.reason, was.issue) != (now.reason, now.issue):
        return False
    return now.expires > was.expires or now.outcome != was.outcome or not now.causes <= was.causes


def profile_changes(old: RunnerProfile, new: RunnerProfile) -> list[tuple[str, Json, Json, bool]]:
    """List the differing fields of two profile versions: field, old value, new value, whether the new is looser."""
    was, now = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [
        (name, was.get(name), now[name], _admits_more(name, was.get(name), now[name]))
        for name in now
        if name != "description" and was.get(name) != now[name]
    ]


def _admits_more(field: str, old: Json, new: Json) -> bool:
    if field == "labels":  # labels choose the machine of the job; other fields state what its device must be
        return False
    if field == "memory_gib":
        return isinstance(new, int | float) and isinstance(old, int | float) and new < old
    if field == "driver":
        return new is None or (old is not None and _version(new) < _version(old))
    if field == "native_formats" and isinstance(old, list) and isinstance(new, list):
        # a format that is not listed is decoded and never has to run on the device's own kernels
        return not {str(value) for value in old} <= {str(value) for value in new}
    if isinstance(old, list) and isinstance(new, list):
        return not {str(item) for item in new} <= {str(item) for item in old}
    if isinstance(old, dict) and isinstance(new, dict):
        return any(new.get(name) != value for name, value in old.items())
    return True


def _version(text: Json) -> list[int]:
    return [int(part) for part in str(text).split(".")]


def pytest_settings(root: Path) -> dict[str, str]:
    """Return pytest's settings that decide which cases run and how, by ``file setting``.

    The file itself is an entry too: an empty ``pytest.ini`` takes the place of the table in ``pyproject.toml``.
    """
    values: dict[str, str] = {}
    for name in PYTEST_FILES:
        path = root / name
        if not path.is_file():
            continue
        settings = _settings(path)
        if settings is not None:
            values[f"{name} settings"] = "present"
            values |= {f"{name} {key}": value for key, value in settings.items() if _matters(key)}
    with suppress(QuantgateError):  # an unusable file ends every command with its own error
        project = Project.of_repository(root).root
        if project != root.resolve():  # another project folder holds other cases
            values["pyproject.toml [tool.quantgate] root"] = str(project.relative_to(root.resolve()))
    return values


def _matters(key: str) -> bool:
    return key in ("addopts", "testpaths", "required_plugins")


def _settings(path: Path) -> Mapping[str, str] | None:
    """Return the settings in one file; ``None`` if pytest takes none from it."""
    try:
        text = read_text(path)
        if path.suffix == ".toml":
            data = parse_toml(text, str(path))
            tool = data if path.name.endswith("pytest.toml") else data.get("tool", {})
            table = tool.get("pytest")
            if table is None:
                return {} if path.name != "pyproject.toml" else None
            return {key: str(value) for key, value in {**table, **table.get("ini_options", {})}.items()}
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read_string(text)
    except (OSError, UnreadableError, configparser.Error, AttributeError, TypeError):
        # differs from every file that can be read, so that the change is listed
        return {"addopts": "not readable"}
    section = "tool:pytest" if path.name == "setup.cfg" else "pytest"
    if parser.has_section(section):
        return dict(parser.items(section))
    return {} if path.name in ("pytest.ini", ".pytest.ini") else None
