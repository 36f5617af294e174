"""The four identity classes, one rule each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.goldens.folder import FolderStore
from harness.goldens.golden import Golden
from harness.goldens.matching import MatchKind, select
from harness.records.identity import CLASSES, Identity


def changed(identity: Identity, **classes: dict[str, Any]) -> Identity:
    """The identity with other fields in some classes."""
    return identity.model_copy(update={name: {**getattr(identity, name), **new} for name, new in classes.items()})


@pytest.fixture
def golden(tmp_path: Path, make: Callable) -> Callable[..., Golden]:
    """A golden made with an identity."""

    def build(identity: Identity, fill: int = 1) -> Golden:
        return FolderStore(tmp_path / "store").add(*make(fill, identity=identity))

    return build


def test_no_golden_is_missing(identity: Identity) -> None:
    match = select([], identity)
    assert (match.kind, match.goldens, match.changes) == (MatchKind.MISSING, (), ())


def test_same_identity_is_exact(identity: Identity, golden: Callable) -> None:
    one = golden(identity)
    match = select([one], identity)
    assert (match.kind, match.goldens, match.changes) == (MatchKind.EXACT, (one,), ())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("subject", MatchKind.EXACT),
        ("env", MatchKind.WEIGHTS),
        ("weights", MatchKind.WEIGHTS),
        ("hardware", MatchKind.HARDWARE),
        ("request", MatchKind.REQUEST),
    ],
)
@pytest.mark.parametrize("how", ["changed", "added", "removed"])
def test_each_class_has_its_rule(identity: Identity, golden: Callable, name: str, kind: MatchKind, how: str) -> None:
    old = dict(getattr(identity, name))
    field = next(iter(old))
    new = {
        "changed": {**old, field: "new"},
        "added": {**old, "extra": 1},
        "removed": {name: value for name, value in old.items() if name != field},
    }[how]
    match = select([golden(identity)], identity.model_copy(update={name: new}))
    assert match.kind is kind
    assert {change.identity_class for change in match.changes} == {name}
    assert match.of(name) == match.changes


def test_every_class_has_a_rule(identity: Identity, golden: Callable) -> None:
    run = changed(identity, **{name: {"extra": 1} for name in CLASSES})
    match = select([golden(identity)], run)
    assert match.kind is MatchKind.REQUEST
    assert [change.identity_class for change in match.changes] == list(CLASSES)


def test_hardware_outranks_weights(identity: Identity, golden: Callable) -> None:
    run = changed(identity, hardware={"device": "NVIDIA B200"}, weights={"model": "b" * 40})
    match = select([golden(identity)], run)
    assert match.kind is MatchKind.HARDWARE
    assert len(match.of("weights")) == 1


def test_stale_fields_of_the_request_are_named(identity: Identity, golden: Callable) -> None:
    run = changed(identity, request={"sampling.seed": 1, "sampling.steps": 4}, subject={"code": "c9"})
    found = select([golden(identity)], run).of("request")
    assert [change.field for change in found] == ["sampling.seed", "sampling.steps"]


def test_all_goldens_of_a_bistable_case_are_offered_newest_first(identity: Identity, golden: Callable) -> None:
    old, new = golden(identity, 1), golden(changed(identity, subject={"code": "c1"}), 2)
    stale = golden(changed(identity, request={"sampling.seed": 7}), 3)
    match = select([old, stale, new], changed(identity, subject={"code": "c1"}))
    assert match.kind is MatchKind.EXACT
    assert match.goldens == (new, old)
    assert match.changes == ()


def test_nearest_golden_speaks_where_none_is_exact(identity: Identity, golden: Callable) -> None:
    far = golden(changed(identity, request={"sampling.seed": 7}), 1)
    near = golden(changed(identity, weights={"model": "b" * 40}), 2)
    farther = golden(changed(identity, weights={"model": "b" * 40, "transformer": "c"}), 3)
    match = select([far, near, farther], identity)
    assert (match.kind, match.goldens) == (MatchKind.WEIGHTS, (near,))


def test_other_weights_are_compared_with_every_answer_of_a_bistable_case(identity: Identity, golden: Callable) -> None:
    one, other = golden(identity, 1), golden(identity, 2)
    stranger = golden(changed(identity, weights={"model": "c", "vae": "d"}), 3)
    match = select([one, other, stranger], changed(identity, weights={"model": "b" * 40}))
    assert (match.kind, match.goldens) == (MatchKind.WEIGHTS, (other, one))


def test_true_is_not_one_and_null_is_not_absent_where_it_matters(identity: Identity, golden: Callable) -> None:
    """A field that one side lacks differs from any value it can have on the other, but null, which says nothing."""
    base = changed(identity, request={"tf32": None})
    assert select([golden(base)], identity).kind is MatchKind.EXACT
    assert select([golden(changed(identity, request={"tf32": False}), 2)], identity).kind is MatchKind.REQUEST


def test_what_no_engine_has_said_yet_is_no_difference(identity: Identity, golden: Callable) -> None:
    stated = {"loader.nibble_order": "low_first", "perturbation.X": "1"}
    message = {"code": "c0", "driver": "1", "package.torch": "2.13.0", "receipts.transformer.nvfp4": 80}
    one = golden(identity.model_copy(update={"subject": stated | message}))
    before = identity.model_copy(update={"subject": {"loader.nibble_order": "high_first"}})
    fields = [change.field for change in select([one], before).changes]
    assert fields == ["loader.nibble_order", "perturbation.X"]
    after = identity.model_copy(update={"subject": stated | {"code": "c0", "driver": "1"}})
    gone = [(change.field, change.run) for change in select([one], after).changes]
    assert gone == [("package.torch", None), ("receipts.transformer.nvfp4", None)]
