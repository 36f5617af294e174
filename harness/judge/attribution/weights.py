"""Name causes inside an expert: Linears that were multiplied wrongly, or the other operation that diverged first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from harness.formats.registry import is_quantized
from harness.records.attribution import Cause, ExperimentResult, Reading
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.verdict import Finding

FITS = 0.008
"""Largest relative error of a reading that explains an output: rounding of operands and result to bfloat16 is .003."""
GAIN_SEEN = 0.004
"""Least distance from 1 of a factor that counts as a gain; rounding moves it by .0005."""
READ_AT_MOST = 8
"""Number of modules whose bytes are read again: enough to separate a single cause from several."""
CODES = {"nibble_swapped": "nibble_order", "other_expert": "experts_swapped", "base": "unquantized"}
ALONE = {
    "norm_off": ("norm", "epsilon or weight"),
    "activation_off": ("activation", "another function or approximation"),
}
"""Per code of a finding about modules that were fed alone: the code of its cause, and how they can differ."""
_BLOCK = "blocks."
_NUMBER = re.compile(r"\.\d+(?=\.)")
_NUMBERS = re.compile(r"\.\d+(?=\.|$)")
FEW_KINDS = 4
FEW_BLOCKS = 2
"""Blocks up to which modules are named by their blocks."""


def off(record: CaseRecord) -> tuple[str, ...]:
    """Return ``expert/module`` of every Linear that is off when fed alone, in order of execution."""
    for finding in record.verdict.findings:
        if finding.code == "module_off" and isinstance(finding.data.get("modules"), list):
            return tuple(str(name) for name in finding.data["modules"])  # type: ignore[union-attr]
    return ()


def to_read(names: Sequence[str]) -> tuple[str, ...]:
    """Return the modules to read: all if they are at most `READ_AT_MOST`, else that many, spread evenly."""
    if len(names) <= READ_AT_MOST:
        return tuple(names)
    return tuple(names[index * (len(names) - 1) // (READ_AT_MOST - 1)] for index in range(READ_AT_MOST))


def from_readings(record: CaseRecord, results: Sequence[ExperimentResult]) -> Iterator[Cause]:
    """Yield one cause per kind of misreading. Modules that were not read join the kind if all others agree on it."""
    names = off(record)
    by_code: dict[str, list[tuple[str, Reading | None]]] = {}
    for result in results:
        if result.experiment.kind == "readings" and result.done:
            reading = best(result.readings)
            module = f"{result.experiment.expert}/{result.experiment.module}"
            by_code.setdefault(_code(reading), []).append((module, reading))
    unread = set(names) - {module for rows in by_code.values() for module, _ in rows}
    for code, rows in sorted(by_code.items(), key=lambda item: -len(item[1])):
        modules = [module for module, _ in rows]
        # With several kinds it is unknown which of them an unread module has, so none of them claims it.
        alone = len(by_code) == 1
        everywhere = [name for name in names if name in modules or (alone and name in unread)]
        place = scope(everywhere, record)
        reading = rows[0][1]
        evidence: dict[str, Json] = {"modules": list(everywhere), "reading": reading.name if reading else None}
        if reading is not None:
            evidence |= {"error": reading.error, "gain": reading.gain}
        yield Cause(
            code=code, place=place, sentence=_sentence(code, place, everywhere, reading, record), evidence=evidence
        )


def best(readings: Sequence[Reading]) -> Reading | None:
    """Return the reading that explains the output, as it is or with one factor on the weight; ``None`` if none does."""
    fitting = [reading for reading in readings if reading.error <= FITS and not _scaled(reading)]
    if fitting:
        return fitting[0]
    scaled = [reading for reading in readings if reading.name == "declared" and _scaled(reading)]
    with_gain = [reading for reading in readings if reading.error <= FITS]
    return with_gain[0] if with_gain else scaled[0] if scaled and _pure_gain(scaled[0]) else None


def _scaled(reading: Reading) -> bool:
    return reading.gain is not None and abs(reading.gain - 1.0) > GAIN_SEEN


def _pure_gain(reading: Reading) -> bool:
    """Return whether the factor explains the error: the rest is rounding."""
    if reading.gain is None:
        return False
    apart = abs(reading.gain - 1.0)
    return abs(reading.error - apart) <= FITS + 0.15 * apart


def _code(reading: Reading | None) -> str:
    if reading is None:
        return "unexplained_weights"
    if reading.name == "declared":
        return "gain" if _scaled(reading) else "golden_differs"
    head = reading.name.partition("+")[0]
    if head.startswith("scale_"):
        return "scale_layout" if head not in ("scale_missing", "scale_inverted") else "scale_value"
    return CODES.get(head, head)


def scope(names: Sequence[str], record: CaseRecord) -> str:
    """Return the smallest name that covers the modules: a module, a block, a kind of module, an expert, or both."""
    if len(names) == 1:
        return names[0]
    experts = sorted({name.partition("/")[0] for name in names})
    subject = experts[0] if len(experts) == 1 else "both experts"
    inside = {name.partition("/")[2] for name in names}
    if len(inside) == 1:
        return f"{subject}/{inside.pop()}"
    blocks, kinds = {_block(name) for name in names}, {_NUMBER.sub(".*", name) for name in inside}
    if len(blocks) == 1 and "" not in blocks:
        return f"{subject}/{blocks.pop()}"
    quantized = {
        f"{module.expert}/{module.module}"
        for module in (record.probe.modules if record.probe else ())
        if module.expert in experts and is_quantized(module.format)
    }
    if quantized and quantized <= set(names):
        return subject
    if "" not in blocks and len(blocks) <= FEW_BLOCKS:
        return f"{subject}/{', '.join(sorted(blocks))}"
    if len(kinds) == 1:
        return f"{subject}/{kinds.pop()}"
    return subject if len(experts) > 1 or len(names) > 3 else ", ".join(names)


def _block(name: str) -> str:
    module = name.partition("/")[2]
    return ".".join(module.split(".")[:2]) if module.startswith(_BLOCK) else ""


def _kinds(names: Sequence[str], place: str) -> str:
    """Return the kinds of modules, such as `` (attn1.to_k)``; nothing if ``place`` names them or they are many."""
    kinds = sorted({re.sub(r"^blocks\.\d+\.", "", name.partition("/")[2]) for name in names})
    return f" ({', '.join(kinds)})" if len(kinds) <= FEW_KINDS and not place.endswith(tuple(kinds)) else ""


def _sentence(code: str, place: str, names: Sequence[str], reading: Reading | None, record: CaseRecord) -> str:
    disk = "; the bytes on disk are right: loader or kernel" if proven_bytes(record) else ""
    if reading is None:
        text = f"{place}{_kinds(names, place)}: no reading of the bytes on disk explains the multiplied values"
        changed = any(finding.code == "held_weights_differ" for finding in record.verdict.findings)
        how = ", and memory holds other values than in the golden's run: rounded, merged, or overwritten after the load"
        return f"{text}{how}" if changed else text
    texts = {
        "nibble_order": f"{place} was multiplied with its nibbles swapped{disk}",
        "scale_layout": f"{place} was multiplied with its block scales in another layout ({reading.name}){disk}",
        "scale_value": f"{place} was multiplied with wrong scales ({reading.name}){disk}",
        "experts_swapped": f"{place} was multiplied with the weights of the other expert",
        "unquantized": f"{place} was multiplied with the weights of the BF16 base",
        "gain": f"{place} was multiplied with its weight times {reading.gain:.4g}",
        "golden_differs": f"{place} was multiplied as its bytes say, and the golden's was not: other weights or golden",
    }
    return texts.get(code, f"{place}: {code} ({reading.name})")


def kinds_of(causes: Sequence[Cause], expert: str) -> set[str]:
    """Return the modules of ``expert`` that causes list, with ``*`` for numbers: ``blocks.*.attn1.to_q``."""
    listed = [cause.evidence.get("modules") for cause in causes]
    names = [str(name) for modules in listed if isinstance(modules, list) for name in modules]
    return {_NUMBERS.sub(".*", name.partition("/")[2]) for name in names if name.partition("/")[0] == expert}


def proven_bytes(record: CaseRecord) -> bool:
    """Return whether the inspection proved the bytes. Without a base it may find no fault and still prove nothing."""
    return record.inspection is not None and record.inspection.outcome == "clean"


def norms(record: CaseRecord) -> Iterator[Cause]:
    """Yield a cause per finding of norms or activations whose output differs from the golden's, fed alone."""
    for finding in record.verdict.findings:
        code, how = ALONE.get(finding.code, ("", ""))
        modules = finding.data.get("modules")
        if code and isinstance(modules, list):
            place = scope([str(name) for name in modules], record)
            sentence = f"{place}: the {code} itself computes otherwise ({how}), fed alone"
            yield Cause(code=code, place=place, sentence=sentence, evidence=dict(finding.data))


def first_divergence(record: CaseRecord) -> Iterator[Cause]:
    """Yield the first diverging operation of each expert that has no Linear and no norm off."""
    broken = {name.partition("/")[0] for name in (*off(record), *_norm_names(record))}
    reported: set[str] = set()
    for finding in record.verdict.findings:
        expert = str(finding.data.get("expert", ""))
        if finding.code != "first_divergence" or expert in broken or expert in reported:
            continue
        reported.add(expert)
        yield _operation(expert, finding)


def _norm_names(record: CaseRecord) -> list[str]:
    per_cause = (cause.evidence.get("modules") for cause in norms(record))
    return [str(name) for names in per_cause if isinstance(names, list) for name in names]


def _operation(expert: str, finding: Finding) -> Cause:
    point, kind = str(finding.data.get("point", "")), str(finding.data.get("kind", ""))
    code = {"norm": "norm", "attention": "attention"}.get(kind, "operation")
    sentence = (
        f"{expert}/{point} ({kind}) is the first to differ on the same input, and no Linear of {expert} is off alone: "
        "not the weights, but this operation or its parameters"
    )
    return Cause(code=code, place=f"{expert}/{point}", sentence=sentence, evidence=dict(finding.data))
