"""The environment of an engine: a small documented base, the settings of the case, and nothing else.

In this order, later wins:

1. *base*: inherited if the caller has them, because a process cannot start or find its libraries without them
   (``BASE``);
2. *execution*: thread counts, offline hub (checkpoints are resolved before the engine starts), and
   ``CUBLAS_WORKSPACE_CONFIG`` if the case requests determinism;
3. *device*: variables of the device lease (``CUDA_VISIBLE_DEVICES``), and those that a perturbation forces;
4. *passed*: the names in ``pass_env``, with the caller's values, which are never recorded;
5. *case*: ``env`` of the case.

The last two cannot set the visible GPUs (``LEASED``), so no case takes a GPU that it has not leased.
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
"""Names that are inherited from the caller if it has them."""


def engine_environment(
    case: Case, device_env: Mapping[str, str], caller: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the whole environment of the engine of ``case``.

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
    # this checkout first: the engine must import the same harness as the parent
    environment["PYTHONPATH"] = os.pathsep.join([root, *inherited])
    threads = str(case.execution.threads)
    environment |= {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # checkpoints are resolved before the engine starts
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if case.execution.deterministic:
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    environment |= device_env
    # `pass_env` may list a name that `env` sets, only to declare that it has an effect
    missing = [name for name in case.pass_env if name not in source and name not in case.env]
    if missing:
        raise InvalidCaseError(
            f"pass_env names {', '.join(missing)}, which the calling environment does not have",
            place=case.id,
            remedy=f"export {missing[0]}=...; or take it out of `pass_env`",
        )
    case_variables = {**{name: source[name] for name in case.pass_env if name in source}, **case.env}
    return environment | {name: value for name, value in case_variables.items() if name not in LEASED}


def secrets_of(case: Case, caller: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the values that must never be shown, by the name that is shown in their place."""
    source = os.environ if caller is None else caller
    return {name: source[name] for name in case.pass_env if worth_hiding(source.get(name, ""))}


# Which cases may share a process: those with equal values in every field that is fixed after the load.


RUNTIME_PYTHON = "QUANTGATE_RUNTIME_PYTHON"
"""Environment variable that gives an engine the interpreter of the case's runtime."""

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
"""Fields of a case that decide how a model is loaded, and in which environment. Sampling and scheduler are not
included: they are set anew for every generation."""


def engine_request(case: Case) -> dict[str, Json]:
    """Return the fields of ``case`` that determine its engine, without ``made_by``, which is a hint for people."""
    data: dict[str, Json] = case.model_dump(mode="json", include=set(KEY_FIELDS))
    for role in ("model", "transformer", "transformer_2"):
        reference = data[role]
        if isinstance(reference, dict):
            reference.pop("made_by", None)
    data["pass_env"] = [*sorted(case.pass_env)]
    return data


def engine_key(case: Case) -> str:
    """Return the sha256 (hex) over :func:`engine_request`: cases with the same key share one process."""
    text = json.dumps(engine_request(case), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
