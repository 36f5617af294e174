"""What the checkpoints promised against what the modules did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from harness.records.case_record import CaseRecord


@dataclass(frozen=True)
class ReceiptRow:
    """One expert, one format, one kernel."""

    expert: str
    format: str
    kernel: str
    modules: int
    calls: int
    promised: int | None
    """Modules that the checkpoint stores in this format; ``None`` where the engine said nothing of it."""
    notes: tuple[str, ...]


def receipt_rows(record: CaseRecord) -> tuple[ReceiptRow, ...]:
    """Receipts by expert, format and kernel, and a row of zero modules for a promised format of which none ran."""
    if record.generation is None:
        return ()
    promised = _promised(record)
    groups: dict[tuple[str, str, str], list[int]] = {}
    notes: dict[tuple[str, str, str], Counter[str]] = {}
    for module in record.generation.receipts.modules:
        key = (module.expert, module.format, module.kernel)
        groups.setdefault(key, []).append(module.calls)
        if module.note:
            notes.setdefault(key, Counter())[module.note] += 1
    rows = [
        ReceiptRow(*key, len(calls), sum(calls), promised.get(key[:2]), tuple(sorted(notes.get(key, ()))))
        for key, calls in sorted(groups.items())
    ]
    ran = {(row.expert, row.format) for row in rows}
    rows.extend(
        ReceiptRow(expert, kind, "did not run", 0, 0, count, ())
        for (expert, kind), count in sorted(promised.items())
        if (expert, kind) not in ran
    )
    return tuple(rows)


def _promised(record: CaseRecord) -> dict[tuple[str, str], int]:
    if record.engine is None:
        return {}
    return {
        (expert, kind): count
        for expert, modules in record.engine.quantized_modules.items()
        for kind, count in Counter(modules.values()).items()
    }
