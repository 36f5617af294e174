"""``--plan FILE --shard 2/4``: run exactly the cases of one shard, in the order of the plan."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest

from harness.errors import QuantgateError
from harness.outcomes import RULES, Outcome
from harness.text import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from harness.lane.plan import Plan, PlannedCase

ItemT = TypeVar("ItemT", bound=pytest.Item)
_SHARD = re.compile(r"([1-9][0-9]*)/([1-9][0-9]*)\Z")


class Shard(NamedTuple):
    """The part of a plan that this pytest run has to execute."""

    plan: Plan
    planned: tuple[PlannedCase, ...]

    def missing(self, nodes: Collection[str]) -> list[str]:
        """Return the planned pytest ids that are not among ``nodes``."""
        return [case.node for case in self.planned if case.node not in nodes]

    def pick(self, items: Sequence[ItemT]) -> list[ItemT]:
        """Return the planned items, in the order of the plan."""
        by_node = {item.nodeid: item for item in items}
        return [by_node[case.node] for case in self.planned if case.node in by_node]


def read_shard(config: pytest.Config) -> Shard | None:
    """Return the plan and the cases of the requested shard (all cases without ``--shard``); ``None`` without a plan.

    Raises:
        pytest.UsageError: the options do not fit together, the plan cannot be used, or it is of another runner.
    """
    file, shard = config.getoption("plan"), config.getoption("shard")
    if not file:
        if config.getoption("plan_id") is not None:
            raise pytest.UsageError("--plan-id needs --plan FILE")
        if shard:
            raise pytest.UsageError(f"--shard {shard} needs --plan FILE: `quantgate plan --runner NAME` writes one")
        return None
    from harness.lane.plan import read_plan

    try:
        plan = read_plan(Path(config.invocation_params.dir, file), config.getoption("plan_id"))
    except QuantgateError as error:
        raise pytest.UsageError(str(error)) from error
    runner = config.getoption("runner")
    if runner and runner != plan.runner:
        raise pytest.UsageError(f"--runner {runner}: the plan {file} is for runner {plan.runner}")
    if not shard:
        return Shard(plan, plan.cases)
    match = _SHARD.fullmatch(shard)
    if match is None:
        raise pytest.UsageError(f"--shard {shard}: write it as 2/4")
    index, count = int(match[1]), int(match[2])
    if count != plan.shards or index > count:
        raise pytest.UsageError(f"--shard {shard}: the plan {file} has {plan.shards} shards")
    return Shard(plan, plan.of_shard(index))


def refuse_missing(missing: Sequence[str], shard: Shard) -> None:
    """End the run if a planned case was not collected: a case that does not run must not look green.

    Raises:
        pytest.exit.Exception: with the exit code of ``not_run``.
    """
    if missing:
        pytest.exit(
            f"{len(missing)} planned cases were not collected: {listed(missing, 5)}\n"
            f"  next: plan again (quantgate plan --runner {shard.plan.runner}), or leave out -k, -m and paths",
            returncode=RULES[Outcome.NOT_RUN].exit_code,
        )
