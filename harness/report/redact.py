"""Secrets never reach a report.

The engine already keeps passed-through values out of its records. This is the second lock, on the way into every
surface: it knows nothing of the case, so it goes by names (``HF_TOKEN``), by the shapes of well-known tokens, and by
the values of secret-looking variables of the process that renders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from harness.records.case_record import CaseRecord

HIDDEN = "<redacted>"
_SHORTEST_SECRET = 8

_NAME = r"[A-Z0-9_.-]*(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY(?:_ID)?|PRIVATE_KEY|CREDENTIALS?)"
_SECRET_NAME = re.compile(rf"^{_NAME}$", re.IGNORECASE)
_ASSIGNED = re.compile(rf"(?P<head>\b{_NAME}[\"']?\s*[=:]\s*)(?P<quote>[\"']?)[^\s\"',;]+(?P=quote)", re.IGNORECASE)
_SHAPES = re.compile(
    r"""hf_[A-Za-z0-9]{16,}
    | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_[A-Za-z0-9_]{16,}
    | glpat-[A-Za-z0-9_-]{16,} | xox[abprs]-[A-Za-z0-9-]{10,}
    | sk-[A-Za-z0-9_-]{20,} | AKIA[0-9A-Z]{16}
    | eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----(?:[\s\S]*?-----END\ [A-Z ]*PRIVATE\ KEY-----)?
    | (?<=[Bb]earer\ )[A-Za-z0-9._~+/=-]{8,}
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)""",
    re.VERBOSE,
)


def redact_text(text: str, known: tuple[str, ...] = ()) -> str:
    """``text`` without the ``known`` values, tokens of a known shape, and values assigned to secret names."""
    for value in known:
        text = text.replace(value, HIDDEN)
    text = _SHAPES.sub(HIDDEN, text)
    return _ASSIGNED.sub(rf"\g<head>{HIDDEN}", text)


def known_secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Values of variables with secret names, longest first; values too short to be told from words are left alone."""
    values = {
        value for name, value in environment.items() if _SECRET_NAME.match(name) and len(value) >= _SHORTEST_SECRET
    }
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


def redact_record(record: CaseRecord, environment: Mapping[str, str] | None = None) -> CaseRecord:
    """The record with every string redacted, keys included."""
    known = known_secrets(os.environ if environment is None else environment)
    return CaseRecord.model_validate(_walk(record.model_dump(mode="json"), known))


def _walk(value: Any, known: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return redact_text(value, known)
    if isinstance(value, list):
        return [_walk(item, known) for item in value]
    if isinstance(value, dict):
        named = _SECRET_NAME.match(str(value.get("field", ""))) is not None
        return {
            redact_text(key, known): HIDDEN if _hide(key, item, named) else _walk(item, known)
            for key, item in value.items()
        }
    return value


def _hide(key: str, value: Any, in_secret_row: bool) -> bool:
    """Whether ``value`` stands under a secret name: its own key, or the ``field`` of a what-changed row."""
    if not isinstance(value, str) or not value:
        return False
    return _SECRET_NAME.match(key) is not None or (in_secret_row and key in ("golden", "run"))
