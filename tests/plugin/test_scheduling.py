"""The scheduler alone: a worker that replaces a dead one gets enough to begin, or hears that there is no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from builders import make_case

from harness.lane.durations import CaseTimes, Duration, History, durations
from harness.plugin.scheduling import EngineScheduling
from harness.plugin.selection import by_engine


class Node:
    """A worker that only remembers what it was told."""

    def __init__(self) -> None:
        self.shutting_down = False
        self.sent: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.sent += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def can_begin(self) -> bool:
        """Whether xdist's worker would run its first test: it knows the next one, or that there is none."""
        return bool(self.sent) and (len(self.sent) > 1 or self.shutting_down)


@pytest.mark.parametrize("tests", [["k"], ["k", "c"], ["k", "c", "d", "e"]])
def test_the_replacement_of_a_dead_worker_begins(tests: list[str]) -> None:
    option = SimpleNamespace(loadscopereorder=True, tx=["popen"], maxprocesses=None)
    config = SimpleNamespace(option=option, getvalue=lambda name: {"tx": ["popen"]}.get(name), rootpath=".")
    scheduler = _scheduler(config)
    first, second = Node(), Node()
    scheduler.add_node(first)
    scheduler.add_node_collection(cast("Any", first), tests)
    scheduler.schedule()
    assert first.can_begin
    assert scheduler.remove_node(first) == "k"
    scheduler.mark_test_pending("k")
    scheduler.add_node(second)
    scheduler.add_node_collection(cast("Any", second), tests)
    scheduler.schedule()
    assert second.can_begin
    assert tests[second.sent[0]] == "k"


def _scheduler(config: Any) -> EngineScheduling:
    from xdist.remote import Producer

    made = EngineScheduling(config, Producer("test", enabled=False))
    made.numnodes = 1
    return made


def test_an_engine_that_imports_everything_itself_begins_first_and_counts_its_load_once() -> None:
    plain = [make_case(id=name) for name in ("a", "b")]
    own = make_case(id="own", env={"ONEDNN_MAX_CPU_ISA": "SSE41"})
    late = make_case(id="late", env={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    cases = [*plain, late, own]
    expected = durations(cases, History(), "cpu", "cpu")
    assert expected["own"].load > expected["a"].load == expected["late"].load
    items: list[Any] = [SimpleNamespace(case=case) for case in cases]
    assert [item.case.id for item in by_engine(items, expected)] == ["own", "a", "b", "late"]
    slow_load = {"a": Duration(1, 5, True), "b": Duration(1, 5, True), "late": Duration(1, 9, True)}
    assert [item.case.id for item in by_engine(items, slow_load)] == ["late", "a", "b", "own"]
    measured = History(runners={"cpu": {"own": CaseTimes(seconds=(1.0,), loads=(2.0,))}})
    assert durations(cases, measured, "cpu", "cpu")["own"].load == 2.0
