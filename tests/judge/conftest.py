"""Every gating finding of a rule has a code that a negative control could wait for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from harness.definitions.causes import check_cause, names_nothing
from harness.frames.registry import metric_names
from harness.records.verdict import Finding

NEVER_EXPECTED = {"golden_missing", "hardware_differs", "invalid_case", "request_differs", "waiver_expired"}
"""Causes of outcomes for which no negative control may wait."""


@pytest.fixture(scope="session", autouse=True)
def only_known_causes() -> Iterator[None]:
    """A gating finding of a rule whose code no case could wait for fails the test in which it is made."""
    plain = Finding.__init__

    def checked(self: Finding, **fields: Any) -> None:
        plain(self, **fields)
        if self.gating and sys._getframe(1).f_globals["__name__"].startswith("harness.judge"):
            problem = check_cause(self.code, metric_names())
            known = problem is None or names_nothing(self.code) or self.code in NEVER_EXPECTED
            assert known, f"{problem}; add it to harness/definitions/causes.py"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finding, "__init__", checked)
        yield
