"""Collect case files as pytest files, and cases as items."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.definitions.case import Case, Located
from harness.errors import InvalidCaseError, QuantgateError
from harness.outcomes import RULES, Outcome
from harness.plugin import options
from harness.plugin.printing import printable
from harness.plugin.state import PluginState
from harness.project import is_case_name
from harness.records.case_record import CaseRecord


def is_case_file(config: pytest.Config, path: Path) -> bool:
    """Return whether ``path`` lies in the folder of the case files of a configured project."""
    return PluginState.of(config).is_configured and path.is_relative_to(options.project(config).cases)


def holds_cases(config: pytest.Config, path: Path) -> bool:
    """Return whether ``path`` is a case file, or a folder below ``cases/`` with a case file at any depth."""
    folder = options.project(config).cases
    if not PluginState.of(config).is_configured or not path.is_relative_to(folder):
        return False
    return any(file.is_relative_to(path) for file in PluginState.of(config).case_files.files)


class CaseFile(pytest.File):
    """One file ``cases/*.yaml``."""

    def collect(self) -> Iterator[CaseItem]:
        """Yield one item per case, in the order of the file."""
        from harness.definitions.loading import load_cases

        PluginState.of(self.config).collected_files.add(self.path)
        try:
            located = load_cases([self.path], self.config.rootpath)
        except InvalidCaseError as error:
            PluginState.of(self.config).invalid_files.append(str(self.path))
            raise self.CollectError(printable(str(error))) from error
        for entry in located:
            yield CaseItem.from_parent(self, name=entry.case.id, located=entry)


class CaseFailedError(Exception):
    """Carry a verdict to pytest; raised if it is not green."""

    def __init__(self, record: CaseRecord, folder: Path) -> None:
        self.record, self.folder = record, folder
        super().__init__(record.verdict.summary)

    def __str__(self) -> str:
        verdict = self.record.verdict
        lines = [f"{verdict.label}: {verdict.summary}", f"  case    {self.record.source}"]
        lines += [
            f"  {'gates' if finding.gating else 'shown':7} {finding.stage}/{finding.code}: {finding.message}"
            for finding in verdict.findings
        ]
        lines += [
            f"  changed {change.identity_class}.{change.field}: {change.golden!r} -> {change.run!r}"
            for change in self.record.changes[:12]
        ]
        lines.append(f"  record  {self.folder / 'record.json'}")
        if verdict.next_command:
            lines.append(f"  next    {verdict.next_command}")
        return printable("\n".join(lines))


class CaseItem(pytest.Item):
    """One case. The evidence is gathered in setup, so that infra is an error and a bad verdict a failure."""

    def __init__(self, *, located: Located, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.located = located
        self.finished: CaseFailedError | None = None
        for runner in located.case.runners:
            self.add_marker(runner)

    @property
    def case(self) -> Case:
        """The resolved case."""
        return self.located.case

    def setup(self) -> None:
        """Run the case; raise if JUnit calls its verdict an error."""
        record, folder = PluginState.of(self.config).run(self.located, self.nodeid)
        self.finished = CaseFailedError(record, folder)
        if RULES[record.verdict.outcome].junit == "error":
            raise self.finished

    def runtest(self) -> None:
        """Raise if the verdict is not green."""
        if self.finished is None:
            raise RuntimeError(f"{self.nodeid} was not set up")
        outcome = self.finished.record.verdict.outcome
        # pytest and JUnit show a waived case as skipped, so that it does not look like a pass.
        if outcome is Outcome.WAIVED:
            pytest.skip(printable(self.finished.record.verdict.summary))
        if outcome is not Outcome.PASS:
            raise self.finished

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the verdict instead of a traceback of quantgate."""
        if isinstance(excinfo.value, CaseFailedError | QuantgateError):
            return printable(str(excinfo.value))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return file, line (from 0) and case id, for the log and the editor."""
        return self.path, self.located.line - 1, self.case.id


# Find the case of a pytest id: the controller of xdist collects nothing, and receives ids only.


class CasesById:
    """Find cases by pytest id; each case file is read once."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._files: dict[str, dict[str, Located]] = {}

    def find(self, nodeid: str) -> Located | None:
        """Return the case with this pytest id; ``None`` if it is another kind of test."""
        path, _, case = nodeid.partition("::")
        if not is_case_name(path):
            return None
        file = self._config.rootpath / path
        if not is_case_file(self._config, file):
            return None
        if path not in self._files:
            from harness.definitions.loading import load_cases

            self._files[path] = {entry.case.id: entry for entry in load_cases([file], self._config.rootpath)}
        return self._files[path].get(case)
