"""What ``quantgate inspect`` is asked: its options, over what a case says. Nothing that was given is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from harness.checkpoint.assemble import Ref
from harness.checkpoint.inspect import Asked
from harness.checkpoint.parts import EXPERTS
from harness.definitions.case import Case, Loader
from harness.errors import InvalidCaseError

NONE = "none"
"""Takes an override of the case away."""


@dataclass(frozen=True)
class Options:
    """The options as they were typed; ``None`` and empty: not given."""

    reference: str = ""
    base: str | None = None
    transformer: str | None = None
    transformer_2: str | None = None
    contracts: Sequence[str] = ()
    nibble_order: str | None = None
    scale_layout: str | None = None
    against: str | None = None
    full: bool = False


def question(options: Options, case: Case | None = None, root: Path | None = None) -> tuple[Ref, Asked]:
    """The checkpoint to inspect and what is asked of it: what was typed, and where nothing was, what the case says.

    Args:
        options: as typed; paths are relative to the current folder.
        case: its checkpoints, contracts and loader stand in for what was not typed.
        root: the repository, to which the case's paths are relative.

    Raises:
        InvalidCaseError: nothing to inspect, an unknown value, or a checkpoint of which nothing would be read.
    """
    asked: Asked = {"full": options.full, "root": root}
    if case is not None:
        asked |= {
            "base": case.base,
            "transformer": case.transformer,
            "transformer_2": case.transformer_2,
            "contracts": case.contracts,
            "loader": case.loader,
            "env": case.env,
            "expected": case.quantization.model_dump(),
        }
        _refuse_hidden(options, case)
    elif not options.reference:
        raise InvalidCaseError("nothing to inspect", remedy="quantgate inspect FOLDER, or quantgate inspect --case ID")
    if options.base is not None:
        asked["base"] = typed(options.base)
    if options.transformer is not None:
        asked["transformer"] = _override(options.transformer)
    if options.transformer_2 is not None:
        asked["transformer_2"] = _override(options.transformer_2)
    if options.contracts:
        asked["contracts"] = options.contracts
    loader = {"nibble_order": options.nibble_order, "scale_layout": options.scale_layout}
    given = {name: _choice(name, value) for name, value in loader.items() if value is not None}
    if given:
        asked["loader"] = (case.loader if case is not None else Loader()).model_copy(update=given)
    if options.reference:
        return typed(options.reference), asked
    return (case.model if case is not None else ""), asked


def refuse_beside_against(given: Mapping[str, Any]) -> None:
    """A comparison reads headers (and, with a base, proofs); what else was typed would not be looked at.

    Raises:
        InvalidCaseError: something of it was given.
    """
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if names:
        raise InvalidCaseError(
            f"a comparison does not look at {', '.join(names)}",
            where="--against",
            remedy="leave --against out, or leave the other options out",
        )


def typed(text: str) -> str:
    """A reference as typed, whose folder stays the same one whatever ``./`` is relative to."""
    folder = Path(text).expanduser()
    if folder.exists() or text.startswith(("./", "../", "~")):
        return str(folder.absolute())
    return text


def _override(text: str) -> str | None:
    return None if text == NONE else typed(text)


def _choice(name: str, value: str) -> str:
    known = get_args(Loader.model_fields[name].annotation)
    if value not in known:
        option = f"--{name.replace('_', '-')}"
        raise InvalidCaseError(f"{value!r} is none of {', '.join(known)}", where=option, remedy=f"{option} {known[0]}")
    return value


def _refuse_hidden(options: Options, case: Case) -> None:
    """A checkpoint put in the model's place, whose experts the overrides of the case would hide."""
    if not options.reference:
        return
    hidden = [name for name in EXPERTS if getattr(case, name) is not None and getattr(options, name) is None]
    if hidden:
        flags = " ".join(f"--{name.replace('_', '-')} {NONE}" for name in hidden)
        raise InvalidCaseError(
            f"the case takes {' and '.join(hidden)} from an override, so that of {options.reference} would not be read",
            where=case.id,
            remedy=f"add {flags} to inspect its own; or name it as the override",
        )
