"""The identity of a run, which decides if two runs are comparable: four classes that decide, with one rule each.

``request``: the case's fields that move the output. Differs: the golden is stale.
``hardware``: exact device name and compute capability; on a CPU its architecture. Differs: environment mismatch, except
between two architectures of CPUs: there the frames are compared, and inside the limits the run is green.
``weights``: the content of each component of the checkpoint (``harness.records.contents``). Differs: the frames are
compared all the same; outside their limits the run is red, inside them the golden is stale.
``env``: environment variables, without those that the runner's profile lists as harmless. Differ: as ``weights``.
``subject``: code, packages, driver, receipts, the files that hold the weights. Shown, never blocks: the subject is
under test.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from harness.architecture import CLASSES as CPU_CLASSES
from harness.architecture import hardware_class
from harness.records.base import Json, Record

IdentityClass = Literal["request", "hardware", "weights", "env", "subject"]
CLASSES: tuple[IdentityClass, ...] = ("request", "hardware", "weights", "env", "subject")


class Identity(Record):
    """Flat ``field: value`` maps, one per class, so that every difference has a name."""

    request: dict[str, Json]
    hardware: dict[str, Json]
    weights: dict[str, Json]
    env: dict[str, Json]
    subject: dict[str, Json]

    def digest(self) -> str:
        """Return the sha256 (hex) over all classes except the subject. Goldens and limits are looked up by it."""
        body = {name: getattr(self, name) for name in CLASSES if name != "subject"}
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


LATE = ("code", "driver", "cuda", "cpu_capability", "device_model", "python")
LATE_GROUPS = ("package.", "receipts.")


def is_late(field: str) -> bool:
    """Return whether a field of the subject is known only after an engine started (receipts: after it ran)."""
    return field in LATE or field.startswith(LATE_GROUPS)


class FieldChange(Record):
    """One row of the "what changed" table. The value of a missing field is ``None``."""

    identity_class: IdentityClass
    field: str
    golden: Json
    run: Json

    @property
    def is_other_cpu(self) -> bool:
        """Whether golden and run were made on CPUs of two architectures: their frames are compared nevertheless."""
        return (
            self.identity_class == "hardware"
            and self.field == "device"
            and self.golden in CPU_CLASSES
            and self.run in CPU_CLASSES
        )


def differences(golden: Identity, run: Identity) -> tuple[FieldChange, ...]:
    """Return every field that differs between the identities of golden and run, in a stable order.

    Before the engine started, the fields that only it can report are unknown. They count as no difference.
    """
    before_engine = "code" not in run.subject
    changes: list[FieldChange] = []
    for name in CLASSES:
        before: dict[str, Json] = getattr(golden, name)
        after: dict[str, Json] = getattr(run, name)
        if name == "hardware":
            before, after = _hardware(before), _hardware(after)
        changes.extend(
            FieldChange(identity_class=name, field=field, golden=before.get(field), run=after.get(field))
            for field in sorted(before.keys() | after.keys())
            if before.get(field) != after.get(field)
            and not (name == "subject" and before_engine and field not in after and is_late(field))
        )
    return tuple(changes)


FILE = "file."
"""Prefix of the subject's fields that hold the sha256 of a file: the storage of the weights, not their content."""
PROGRAM = "program."
"""Prefix of the subject's fields that hold the sha256 of a file of the case's ``command``."""


def component_of(file: str) -> str:
    """Return the component of a file: ``vae`` of ``vae/config.json``, ``model_index`` of ``model_index.json``."""
    return file.partition("/")[0] if "/" in file else file.removesuffix(".json")


def files_of(identity: Identity) -> dict[str, dict[str, Json]]:
    """Return sha256 by file, by component."""
    files: dict[str, dict[str, Json]] = {}
    for field, value in identity.subject.items():
        if field.startswith(FILE):
            file = field.removeprefix(FILE)
            files.setdefault(component_of(file), {})[file] = value
    return files


def _hardware(fields: dict[str, Json]) -> dict[str, Json]:
    """Return the fields with the CPU's architecture under Linux's name: a golden from macOS may hold ``arm64``."""
    device = fields.get("device")
    return {**fields, "device": hardware_class(device)} if isinstance(device, str) else fields


# The machine of a run.


class Device(Record):
    """One accelerator, or the CPU."""

    kind: Literal["cpu", "cuda"]
    name: str
    """Exact name as the driver gives it; on a CPU the architecture (``x86_64``)."""
    compute_capability: str | None = None
    """``major.minor`` of a GPU, such as ``10.0``."""
    uuid: str | None = None
    memory_bytes: int | None = None
    model: str = ""
    """Marketing name of a CPU. Shown, never compared."""


class Fingerprint(Record):
    """Runner fingerprint of one engine."""

    runner: str
    device: Device
    driver: str | None = None
    cuda: str | None = None
    cpu_capability: str = ""
    """Instruction set that torch dispatches to: DEFAULT, AVX2, AVX512."""
    threads: int = 1
    python: str = ""
    packages: dict[str, str] = {}
    """Version per distribution: torch, diffusers, transformers, numpy, quantgate."""
    code: str = ""
    """Commit of the harness or of the code under test, with ``+dirty`` if the tree had changes."""
