"""Whatever is in a case file, the answer is cases or one InvalidCaseError, never another exception."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.definitions.case import Case, Frozen
from harness.definitions.loading import load_cases
from harness.definitions.validation import model_of
from harness.errors import InvalidCaseError

GOOD = {
    "runners": ["cpu"],
    "model": {"path": "./w"},
    "sampling": {"prompt": "p", "width": 96, "height": 64, "num_frames": 17, "num_inference_steps": 8,
                 "guidance_scale": 3.0},
}  # fmt: skip


def survives(data: bytes) -> tuple[str, ...]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(data)
        try:
            return tuple(one.case.id for one in load_cases([path], Path(folder), runners=["cpu"]))
        except InvalidCaseError as error:
            message = str(error)
    assert "c.yaml:" in message
    return ()


def words(model: type[Frozen]) -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner = model_of(field.annotation)
        found += [name, *(words(inner) if inner is not None else [])]
    return found


KEYS = st.sampled_from([*words(Case), "matrix", "sampling.seed", "model.path", "env.X", "OMP_NUM_THREADS", ""])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["cpu", "./w", "x-y", "../..", "/", "a/b", "unresolved", "pass", "regression"]),
    st.sampled_from(["nvfp4", "command", "2030-01-01"]),
)  # fmt: skip
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)


@given(st.binary(max_size=60))
def test_any_bytes(data):
    survives(data)


@given(st.text(st.sampled_from("acdefilmnrstu:-?#&*!|>'\"%@`{}[], \n\t01~<"), max_size=80))
def test_any_text_near_yaml(text):
    survives(b"cases:\n  one:\n" + text.encode())


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(ANYTHING, ANYTHING, ANYTHING)
def test_any_tree(defaults, one, two):
    survives(json.dumps({"defaults": defaults, "cases": {"one": one, "two": two}}).encode())


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, ANYTHING, max_size=2))
def test_a_good_case_with_anything_laid_over(fields):
    survives(json.dumps({"defaults": GOOD, "cases": {"one": fields}}).encode())


@given(st.lists(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,10}", fullmatch=True), unique=True, min_size=1, max_size=5))
def test_good_cases_come_back_in_order(ids):
    assert survives(json.dumps({"defaults": GOOD, "cases": dict.fromkeys(ids)}).encode()) == tuple(ids)
