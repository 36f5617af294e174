"""One transformer on disk: shards, index, configuration, and what was wrong while reading them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from harness.checkpoint.config import MAX_CONFIG_BYTES, NOTHING, Declaration, declaration, parse_json
from harness.checkpoint.errors import ConfigError, HeaderError
from harness.checkpoint.findings import finding, some
from harness.checkpoint.header import Header, TensorEntry, read_header
from harness.checkpoint.sources import Source
from harness.records.inspection import InspectionFinding

_VARIANT = re.compile(r"[^/.]+\.(?!safetensors)[^/]+\.safetensors(\.index\.json)?$")
Role = Literal["model", "override", "base"]


@dataclass(frozen=True)
class Component:
    """One expert. ``tensors`` holds what the index points at, or everything where there is no index."""

    expert: str
    role: Role
    source: Source
    folder: str
    tensors: Mapping[str, TensorEntry]
    shards: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    declaration: Declaration = NOTHING
    metadata: Mapping[str, str] = field(default_factory=dict)
    configs: tuple[str, ...] = ()
    """Configuration files that were read, for the identity."""
    findings: tuple[InspectionFinding, ...] = ()

    @property
    def where(self) -> str:
        """Source and folder, for people."""
        return f"{self.source.label}/{self.folder}" if self.folder else self.source.label


def read_json(source: Source, path: str) -> dict[str, Any]:
    """A JSON object of the source. Raises ``ConfigError`` and ``SourceError``."""
    size = source.files[path].size
    if size > MAX_CONFIG_BYTES:
        raise ConfigError(f"a configuration of {size} bytes", where=f"{source.label}/{path}")
    return parse_json(source.read(path, 0, size), f"{source.label}/{path}")


def load_component(source: Source, folder: str, expert: str, role: Role, pool: Executor) -> Component:
    """Read the headers, the index and the configuration of one transformer.

    Faults of the files become findings of the component; only a source that fails raises (``SourceError``).
    """
    empty = Component(expert, role, source, folder, {})
    prefix = f"{folder}/" if folder else ""
    names = [path for path in source.files if path.startswith(prefix) and "/" not in path[len(prefix) :]]
    variants = _variants(names)
    names = [path for path in names if path not in variants]
    shards = sorted(path for path in names if path.endswith(".safetensors"))
    found: list[InspectionFinding] = []

    def report(severity: Literal["fault", "warning"], code: str, message: str, **evidence: Any) -> None:
        found.append(finding(severity, code, message, expert=expert, evidence=evidence))

    headers: dict[str, Header] = {}
    for path, result in zip(shards, pool.map(lambda item: _header(source, item), shards), strict=True):
        if isinstance(result, HeaderError):
            report("fault", "header_invalid", f"{path}: {result.what}.", reason=result.code, file=path)
        else:
            headers[path] = result
    weight_map = _weight_map(source, names, report)
    tensors = _join(headers, weight_map, prefix, set(shards), report)
    metadata = {key: value for header in headers.values() for key, value in header.metadata.items()}
    config, declared, configs = _configs(source, prefix, names, metadata, report)
    return replace(
        empty,
        tensors=tensors,
        shards=tuple(shards),
        config=config,
        declaration=declared,
        metadata=metadata,
        configs=tuple(configs),
        findings=tuple(found),
    )


def _variants(names: Sequence[str]) -> set[str]:
    """Files of other precisions beside the weights, ``model.fp16.safetensors``: no loader takes both."""
    weights = [path for path in names if path.endswith((".safetensors", ".safetensors.index.json"))]
    other = {path for path in weights if _VARIANT.search(path)}
    return other if len(other) < len(weights) else set()


def _header(source: Source, path: str) -> Header | HeaderError:
    try:
        return read_header(path, source.files[path].size, lambda start, size: source.read(path, start, size))
    except HeaderError as error:
        return error


def _weight_map(source: Source, names: Iterable[str], report: Any) -> dict[str, str] | None:
    indexes = [name for name in names if name.endswith(".safetensors.index.json")]
    if not indexes:
        return None
    try:
        weight_map = read_json(source, indexes[0]).get("weight_map")
    except ConfigError as error:
        report("fault", "index_invalid", f"{indexes[0]}: {error.what}.", file=indexes[0])
        return None
    if not isinstance(weight_map, dict) or not all(isinstance(item, str) for item in weight_map.values()):
        report("fault", "index_invalid", f"{indexes[0]}: weight_map is not a map of names.", file=indexes[0])
        return None
    if outside := sorted({item for item in weight_map.values() if "/" in item or "\\" in item or item.startswith(".")}):
        report("fault", "index_invalid", f"{indexes[0]} points outside its folder: {some(outside)}.", files=outside)
        return None
    return weight_map


def _join(
    headers: Mapping[str, Header], weight_map: dict[str, str] | None, prefix: str, shards: set[str], report: Any
) -> dict[str, TensorEntry]:
    if weight_map is None:
        tensors: dict[str, TensorEntry] = {}
        twice: list[str] = []
        for header in headers.values():
            twice += [name for name in header.tensors if name in tensors]
            tensors.update(header.tensors)
        if twice:
            text = (
                f"{len(twice)} tensors stand in more than one file ({some(sorted(twice))}): which one wins is chance."
            )
            report("fault", "duplicate_tensors", text, tensors=sorted(twice)[:20])
        return tensors
    wanted = {prefix + name for name in weight_map.values()}
    if missing := sorted(wanted - shards):
        lost = sum(prefix + name in missing for name in weight_map.values())
        text = f"the index names {some(missing)}, and there is no such file: {lost} tensors are absent."
        report("fault", "shard_missing", text, files=missing, tensors=lost)
    tensors, stale = {}, []
    for name, file in weight_map.items():
        shard = headers.get(prefix + file)
        if shard is not None and name in shard.tensors:
            tensors[name] = shard.tensors[name]
        elif shard is not None:
            stale.append(name)
    if stale:
        text = f"the index places {some(sorted(stale))} in a shard that does not hold it: the index is stale."
        report("fault", "index_stale", text, tensors=sorted(stale)[:20], count=len(stale))
    loose = sorted(
        name
        for path, header in headers.items()
        for name in header.tensors
        if prefix + weight_map.get(name, "") != path and name not in stale
    )
    if loose:
        text = (
            f"{len(loose)} stored tensors are not where the index says ({some(loose)}): a loader that globs takes them."
        )
        report("fault", "unindexed_tensors", text, tensors=loose[:20], count=len(loose))
    return tensors


def _configs(
    source: Source, prefix: str, names: Iterable[str], metadata: Mapping[str, str], report: Any
) -> tuple[dict[str, Any], Declaration, list[str]]:
    config: dict[str, Any] = {}
    candidates: list[Declaration] = []
    read: list[str] = []
    present = set(names) | ({"hf_quant_config.json"} & set(source.files))

    def attempt(path: str, body: Any, origin: str, shared: bool = False) -> None:
        if not isinstance(body, Mapping):
            report("fault", "config_invalid", f"{path}: the quantization section is not an object.", file=path)
            return
        try:
            candidates.append(replace(declaration(body, origin), shared=shared))
        except ConfigError as error:
            report("fault", "config_invalid", f"{path}: {error.what}.", file=path)

    for path in (f"{prefix}config.json", f"{prefix}hf_quant_config.json", "hf_quant_config.json"):
        if path not in present or path in read:
            continue
        read.append(path)
        try:
            body = read_json(source, path)
        except ConfigError as error:
            text = f"{path} cannot be read ({error.what}); a runtime that swallows this loads it as unquantized."
            report("fault", "config_invalid", text, file=path)
            continue
        if path.endswith("hf_quant_config.json"):
            attempt(path, body, "hf_quant_config.json", shared=bool(prefix) and not path.startswith(prefix))
            continue
        config = body
        if body.get("quantization_config") is not None:
            attempt(path, body["quantization_config"], "config.json")
    for key in ("quantization_config", "_quantization_metadata"):
        if key in metadata:
            try:
                body = json.loads(metadata[key])
            except ValueError as error:
                report("fault", "config_invalid", f"shard metadata {key} is not JSON ({error}).", key=key)
                continue
            if key == "quantization_config":
                attempt("shard metadata", body, "shard metadata")
            elif isinstance(body, Mapping) and not candidates:
                attempt("shard metadata", _layers(body), "shard metadata")
    _hold_together([item for item in candidates if not item.shared], report)
    return config, candidates[0] if candidates else NOTHING, read


def _hold_together(declarations: list[Declaration], report: Any) -> None:
    """Two places that declare different things: which one counts depends on the runtime."""
    for other in declarations[1:]:
        first = declarations[0]
        if (first.format, first.layers) != (other.format, other.layers):
            text = (
                f"{first.origin} declares {first.algo or first.method} and {other.origin} {other.algo or other.method}"
            )
            report("fault", "declarations_differ", f"{text}: which one counts depends on the runtime.")
        elif first.ignore and other.ignore and set(first.ignore) != set(other.ignore):
            odd = some(sorted(set(first.ignore) ^ set(other.ignore)))
            text = f"the ignore lists of {first.origin} and {other.origin} differ in {odd}"
            report("warning", "declarations_differ", f"{text}: which one counts depends on the runtime.")


def _layers(body: Mapping[str, Any]) -> dict[str, Any]:
    """``_quantization_metadata`` of Comfy and diffusers: one format a layer."""
    layers = body.get("layers")
    items = layers.items() if isinstance(layers, Mapping) else ()
    algos = {str(name): _algo(str(item.get("format", ""))) for name, item in items if isinstance(item, Mapping)}
    known = set(algos.values()) - {""}
    algo = body.get("quant_algo") or ("MIXED_PRECISION" if len(known) > 1 else next(iter(known), ""))
    named = {name: {"quant_algo": algo} for name, algo in algos.items()}
    return {"quantized_layers": named, **body, "quant_algo": algo, "quant_method": body.get("quant_method", "comfy")}


def _algo(name: str) -> str:
    return "NVFP4" if name == "nvfp4" else "FP8" if "fp8" in name or "float8" in name else name
