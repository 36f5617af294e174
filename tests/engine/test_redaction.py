"""Only secrets are replaced: switches and the program's own codes stay."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.definitions.causes import CAUSES
from harness.engine import failures
from harness.engine.environment import secrets_of
from harness.engine.secrets import redact_error, worth_hiding
from harness.errors import KINDS, InfraError


@pytest.mark.parametrize("value", ["", "1", "true", "12345", "crash", "regression", "Protocol", "scale_missing"])
def test_a_switch_is_no_secret(make_case: Any, value: str) -> None:
    assert secrets_of(make_case(pass_env=["MODE"]), {"MODE": value}) == {}


@pytest.mark.parametrize("value", ["123456", "crash1", "hunter2-value", "regressions"])
def test_everything_else_is_one(make_case: Any, value: str) -> None:
    assert secrets_of(make_case(pass_env=["MODE"]), {"MODE": value}) == {"MODE": value}


def test_a_code_stays_what_it_is_and_a_secret_in_its_place_does_not() -> None:
    secrets = {"MODE": "missing", "KEY": "hunter2"}
    message = {"type": "InfraError", "kind": "oom", "code": "scale_missing", "message": "missing hunter2", "place": ""}
    assert redact_error(message, secrets) == {**message, "message": "<MODE> <KEY>"}
    assert redact_error({"kind": "hunter2", "code": "hunter2"}, secrets) == {"kind": "<KEY>", "code": "<KEY>"}


def test_every_type_kind_and_code_of_an_error_survives() -> None:
    machine = {"type": failures._CARRIED, "kind": KINDS, "code": CAUSES}
    for key, words in machine.items():
        for word in words:
            assert redact_error({key: word}, {"A": word}) == {key: word}


@given(st.text(min_size=6).filter(worth_hiding), st.text(max_size=8), st.text(max_size=8))
def test_no_secret_is_left_in_the_text_of_an_error(value: str, before: str, after: str) -> None:
    described = failures.describe(InfraError(before + value + after, place=value, remedy=value, kind="crash"))
    cleaned = redact_error(described, {"": value})
    assert all(value not in str(cleaned[key]).replace("<>", "") for key in ("place", "remedy"))
    assert str(cleaned["message"]) == (before + value + after).replace(value, "<>")
