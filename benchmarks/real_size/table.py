"""The results of ``benchmarks.real_size`` as a table of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Facts = Mapping[str, Any]
_STAGES = ("inspect", "load", "probe", "generate", "compare", "total")


def table(results: Mapping[str, Facts]) -> str:
    """Every figure that is known, one a line; a step that failed or did not run says why."""
    return "\n".join(_lines({name: facts.get("facts", {}) for name, facts in results.items()}, results))


def _row(label: str, *parts: str) -> str:
    return f"{label:<36} {'  '.join(part for part in parts if part)}".rstrip()


def _lines(facts: Mapping[str, Facts], results: Mapping[str, Facts]) -> Iterator[str]:
    if machine := facts.get("machine", {}):
        settings = (machine[name] for name in ("device", "driver", "torch", "cores", "memory_gb", "width", "layers"))
        yield "{}, driver {}, torch {}, {} cores, {} GB; width {}, {} layers".format(*settings)
    for form in ("base", "fp8", "nvfp4"):
        if made := facts.get(f"build-{form}"):
            yield _row(f"{form} written", f"{made['seconds']:8.1f} s", f"{made['bytes'] / 1e9:.1f} GB")
    for form in ("fp8", "nvfp4"):
        yield from _inspection(f"inspect {form} with base", facts.get(f"inspect-{form}", {}))
        if got := facts.get(f"read-{form}"):
            first, again = got["first_seconds"], got["again_seconds"]
            yield _row(
                f"{form} bytes read, nothing else", f"{first:8.2f} s first ({got['state']}), {again:.2f} s again"
            )
        yield from _cases(form, facts)
    yield from _inspection("incident, sglang==0.5.12", facts.get("incident", {}))
    yield from _starts(facts.get("engine-start", {}))
    yield from _regeneration(facts.get("regenerate", {}))
    for name, result in results.items():
        if result.get("state") != "done":
            last = [line for line in str(result.get("why", "")).splitlines() if line.strip()][-1:]
            yield _row(name, ": ".join([str(result.get("state", "not run")), *last]))


def _inspection(name: str, facts: Facts) -> Iterator[str]:
    for state in ("cold", "warm"):
        if f"{state}_seconds" not in facts:
            continue
        label = facts["state"] if state == "cold" else state
        seconds, inside = facts[f"{state}_seconds"], facts[f"{state}_inside_seconds"]
        size = f"{facts[f'{state}_bytes'] / 2**20:.1f} MiB in {facts[f'{state}_reads']} reads"
        outcome = f"{facts['outcome']} {facts['cause']}, {facts['proven']} proven" if state == "cold" else ""
        yield _row(f"{name}, {label}", f"{seconds:8.2f} s ({inside:.2f} s inside)", size, outcome)


def _cases(form: str, facts: Mapping[str, Facts]) -> Iterator[str]:
    alone = facts.get(f"bare-{form}", {})
    if "load_seconds" in alone:
        yield _row(f"{form} loaded without a gate", f"{alone['load_seconds']:8.2f} s")
    for shape, rows in facts.get(f"case-{form}", {}).items():
        for name in ("first", "again"):
            if row := rows.get(name):
                stages = (f"{stage} {row[stage]:.2f}" for stage in _STAGES)
                yield _row(f"{form} {shape} {name}", *stages, f"{row['outcome']} {row['cause']}")
        if again := rows.get("again"):
            peak = (
                f"GPU peak {again.get('gpu_peak_bytes', 0) / 1e9:.1f} GB, host {rows['host_peak_bytes'] / 1e9:.1f} GB"
            )
            yield _row(f"{form} {shape}", peak, f"golden {rows['golden_bytes'] / 1e6:.2f} MB")
            if shape in alone:
                ratio = again["total"] / alone[shape]
                yield _row(f"{form} {shape} against bare", f"{ratio:8.3f}", f"bare {alone[shape]:.2f} s")


def _starts(facts: Facts) -> Iterator[str]:
    for number, start in enumerate(facts.get("starts", []), 1):
        beyond = start["seconds"] - start["load_seconds"]
        duration = f"{start['seconds']:8.2f} s, {beyond:.2f} s of it before the load"
        way = f"{start['by']}: {start['why']}" if start.get("why") else start["by"]
        yield _row(f"engine {number} of the embedded model", duration, way)


def _regeneration(facts: Facts) -> Iterator[str]:
    if "seconds" in facts:
        yield _row("regenerate, one NVFP4 case", f"{facts['seconds']:8.1f} s", f"{facts['runs']} runs")
    for name in ("healthy", "swapped"):
        if row := facts.get(name):
            took = f"{facts[f'{name}_seconds']:8.1f} s, probe {row['probe']:.2f} s"
            yield _row(f"probed case, {name}", took, f"{row['outcome']} {row['cause']}: {row['summary']}")
    if "named" in facts:
        yield _row("the swapped Linear is named", str(facts["named"]))
