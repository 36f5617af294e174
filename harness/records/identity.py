"""What makes two runs comparable: four classes, one rule each.

``request``: everything the case states. Differs: the golden is stale.
``hardware``: exact device name and compute capability; on a CPU its architecture. Differs: environment mismatch.
``weights`` and ``env``: checkpoint digests and environment variables. Differ: pixels do not gate.
``subject``: code, packages, driver, receipts. Shown, never blocks: it is what is being tested.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from harness.records.base import Json, Record

IdentityClass = Literal["request", "hardware", "weights", "env", "subject"]
CLASSES: tuple[IdentityClass, ...] = ("request", "hardware", "weights", "env", "subject")


class Identity(Record):
    """Flat ``field: value`` maps, one a class, so that a difference has a name."""

    request: dict[str, Json]
    hardware: dict[str, Json]
    weights: dict[str, Json]
    env: dict[str, Json]
    subject: dict[str, Json]

    def digest(self) -> str:
        """sha256 (hex) over everything but the subject: the name under which goldens and limits are looked up."""
        body = {name: getattr(self, name) for name in CLASSES if name != "subject"}
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


LATE = ("code", "driver", "cuda", "cpu_capability", "device_model", "python")
LATE_GROUPS = ("package.", "receipts.")


def is_late(field: str) -> bool:
    """Whether a field of the subject is known only once an engine stands (receipts: once it ran)."""
    return field in LATE or field.startswith(LATE_GROUPS)


class FieldChange(Record):
    """One row of the "what changed" table. A missing field reads ``None``."""

    identity_class: IdentityClass
    field: str
    golden: Json
    run: Json


def differences(golden: Identity, run: Identity) -> tuple[FieldChange, ...]:
    """Every field that differs between the golden's identity and this run's, in a stable order.

    What the engine would have said, had it stood already, is unknown and no difference.
    """
    before_engine = "code" not in run.subject
    changes: list[FieldChange] = []
    for name in CLASSES:
        before: dict[str, Json] = getattr(golden, name)
        after: dict[str, Json] = getattr(run, name)
        changes.extend(
            FieldChange(identity_class=name, field=field, golden=before.get(field), run=after.get(field))
            for field in sorted(before.keys() | after.keys())
            if before.get(field) != after.get(field)
            and not (name == "subject" and before_engine and field not in after and is_late(field))
        )
    return tuple(changes)
