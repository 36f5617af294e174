"""The environment of an engine: a small documented base, what the case states, and nothing else.

In this order, later wins:

1. *base*: inherited where the caller has them, because a process cannot start or find its libraries without them
   (``BASE``);
2. *execution*: thread counts, offline hub (checkpoints are resolved before the engine starts), and
   ``CUBLAS_WORKSPACE_CONFIG`` where the case asks for determinism;
3. *device*: what the device lease says (``CUDA_VISIBLE_DEVICES``), and what a perturbation forces;
4. *passed*: the names in ``pass_env``, with the caller's values, which are never recorded;
5. *case*: ``env`` of the case.

Neither of the last two says which GPU is seen (``LEASED``): no case takes a GPU that is not its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import harness
from harness.definitions.case import Case
from harness.definitions.environment import LEASED
from harness.engine.secrets import worth_hiding
from harness.errors import InvalidCaseError
from harness.records.base import Json

BASE = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "HF_HOME",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "PYTHONPATH",
)
"""Names that are taken over from the caller where it has them."""


def engine_environment(
    case: Case, device_env: Mapping[str, str], caller: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of the engine of ``case``.

    Args:
        case: the resolved case.
        device_env: variables that select the device.
        caller: the environment to inherit from; ``os.environ`` if not given.

    Raises:
        InvalidCaseError: a name in ``pass_env`` is not set in the caller's environment.
    """
    source = os.environ if caller is None else caller
    environment = {name: source[name] for name in BASE if name in source}
    root = str(Path(harness.__file__).resolve().parent.parent)
    inherited = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part != root]
    environment["PYTHONPATH"] = os.pathsep.join([root, *inherited])
    threads = str(case.execution.threads)
    environment |= {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if case.execution.deterministic:
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    environment |= device_env
    # a name that `env` sets is listed in `pass_env` only to say that it has an effect
    missing = [name for name in case.pass_env if name not in source and name not in case.env]
    if missing:
        raise InvalidCaseError(
            f"pass_env names {', '.join(missing)}, which the calling environment does not have",
            where=case.id,
            remedy=f"export {missing[0]}=...; or take it out of `pass_env`",
        )
    asked = {**{name: source[name] for name in case.pass_env if name in source}, **case.env}
    return environment | {name: value for name, value in asked.items() if name not in LEASED}


def secrets_of(case: Case, caller: Mapping[str, str] | None = None) -> dict[str, str]:
    """Values that must never be shown, by the name that is shown in their place."""
    source = os.environ if caller is None else caller
    return {name: source[name] for name in case.pass_env if worth_hiding(source.get(name, ""))}


# Which cases may share a process: everything that is fixed once an engine stands.


RUNTIME_PYTHON = "QUANTGATE_RUNTIME_PYTHON"
"""Environment variable of an engine: the interpreter of the case's runtime."""

KEY_FIELDS = (
    "backend",
    "command",
    "runtime",
    "runtime_args",
    "server",
    "model",
    "transformer",
    "transformer_2",
    "env",
    "pass_env",
    "loader",
    "execution",
    "precision",
    "quantization",
)
"""Fields of a case that decide how a model is loaded and in which environment. Sampling and scheduler are not among
them: they are set anew for every generation."""


def engine_request(case: Case) -> dict[str, Json]:
    """The part of ``case`` that its engine is made of, as data. ``made_by`` is a hint for people and is left out."""
    data: dict[str, Json] = case.model_dump(mode="json", include=set(KEY_FIELDS))
    for role in ("model", "transformer", "transformer_2"):
        reference = data[role]
        if isinstance(reference, dict):
            reference.pop("made_by", None)
    data["pass_env"] = [*sorted(case.pass_env)]
    return data


def engine_key(case: Case) -> str:
    """sha256 (hex) over :func:`engine_request`: two cases with the same key are served by one process."""
    text = json.dumps(engine_request(case), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
