"""From a pytest id back to its case: the controller of xdist collects nothing, and is told ids only."""

from __future__ import annotations

import pytest

from harness.definitions.case import Located
from harness.definitions.files import is_case_name
from harness.plugin.collect import is_case_file


class CasesById:
    """Reads each case file once."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._files: dict[str, dict[str, Located]] = {}

    def find(self, nodeid: str) -> Located | None:
        """The case with this pytest id; ``None`` where it is another kind of test."""
        path, _, case = nodeid.partition("::")
        if not is_case_name(path):
            return None
        file = self._config.rootpath / path
        if not is_case_file(self._config, file):
            return None
        if path not in self._files:
            from harness.definitions.loading import load_case_file

            self._files[path] = {one.case.id: one for one in load_case_file(file, self._config.rootpath)}
        return self._files[path].get(case)
