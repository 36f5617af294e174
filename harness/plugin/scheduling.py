"""xdist: cases of one engine stay on one worker, and records come home.

``--dist loadgroup`` scatters groups under pytest 9.2 and xdist 3.8 (xdist #1386), so the scheduler hook is used: it
groups by engine key, which the controller computes from the case files, whatever ``--dist`` says.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from harness.plugin.state import PluginState
from harness.records.case_record import CaseRecord


class EngineScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Scope of a test id: its engine for a case, the id itself for everything else."""

    @cached_property
    def _engines(self) -> dict[str, dict[str, str]]:
        return {}

    def _split_scope(self, nodeid: str) -> str:
        path, _, case = nodeid.partition("::")
        if not path.endswith((".yaml", ".yml")):
            return nodeid
        if path not in self._engines:
            self._engines[path] = _engines_of(self.config.rootpath, path)
        return self._engines[path].get(case, nodeid)


def _engines_of(root: Path, path: str) -> dict[str, str]:
    from harness.definitions.loading import load_case_file
    from harness.pipeline.engine_key import engine_key

    return {one.case.id: engine_key(one.case) for one in load_case_file(root / path, root)}


class XdistHooks:
    """Registered only where xdist is."""

    @pytest.hookimpl
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> EngineScheduling | None:
        """Group by engine whenever tests are distributed by load."""
        return EngineScheduling(config, log) if config.getvalue("dist") in ("load", "loadscope", "loadgroup") else None

    @pytest.hookimpl
    def pytest_configure_node(self, node: Any) -> None:
        """Tell each worker the run it belongs to."""
        state = PluginState.of(node.config)
        node.workerinput["quantgate_run_id"] = state.run_id()
        node.workerinput["quantgate_runner"] = node.config.getoption("runner") or ""

    @pytest.hookimpl
    def pytest_testnodedown(self, node: Any) -> None:
        """Collect the records of a worker that ended."""
        sent = getattr(node, "workeroutput", {}).get("quantgate_records", [])
        PluginState.of(node.config).records.extend(CaseRecord.model_validate_json(text) for text in sent)
