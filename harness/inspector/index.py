"""Read one transformer from disk: shards, index and configuration. Faults of the files become findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from harness.formats.config import (
    DESCRIPTION,
    MAX_CONFIG_BYTES,
    NOTHING,
    Declaration,
    declaration,
    described,
    parse_json,
)
from harness.formats.errors import ConfigError, HeaderError
from harness.formats.file_types import PICKLES, SNIFF, FileType, sniff
from harness.formats.gguf_header import read_gguf_header
from harness.formats.header import Header, TensorEntry, read_header
from harness.formats.modules import Hints
from harness.formats.names import Naming, module_to_diffusers, split_parts, translate
from harness.formats.other_weights import other_weights
from harness.inspector.findings import finding
from harness.inspector.parts import EXPERTS
from harness.inspector.sources import Source
from harness.reading import UnreadableError, parse_foreign, reason
from harness.records.inspection import InspectionFinding, Severity
from harness.text import listed

_VARIANT = re.compile(r"[^/.]+\.(?!safetensors)[^/]+\.safetensors(\.index\.json)?$")
Role = Literal["model", "override", "base"]


@dataclass(frozen=True)
class Component:
    """One expert. ``tensors`` holds the tensors that the index names, or all stored tensors if there is no index."""

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
    naming: Naming = field(default_factory=Naming)
    """The dialect of the stored names; ``tensors`` has Diffusers' names."""
    hints: Hints = field(default_factory=Hints)
    """Markers and library metadata by module."""
    stored: Mapping[str, TensorEntry] = field(default_factory=dict)
    """Tensors under the names that the files have: a runtime reads these."""

    @property
    def place(self) -> str:
        """Return source and folder as text for messages."""
        return f"{self.source.label}/{self.folder}" if self.folder else self.source.label

    @property
    def prefix(self) -> str:
        """Return the folder with a slash behind it; empty for the source's root."""
        return f"{self.folder}/" if self.folder else ""


def read_json(source: Source, path: str) -> dict[str, Any]:
    """Read a JSON object of the source. Raises ``ConfigError`` and ``SourceError``."""
    size = source.files[path].size
    if size > MAX_CONFIG_BYTES:
        raise ConfigError(f"a configuration of {size} bytes", place=f"{source.label}/{path}")
    return parse_json(source.read(path, 0, size), f"{source.label}/{path}")


WEIGHT_FILES = (".safetensors", ".gguf")
MAX_MARKER_BYTES = 1 << 16


class Report:
    """Collect the findings of one component while it is read."""

    def __init__(self, expert: str) -> None:
        self.expert = expert
        self.findings: list[InspectionFinding] = []

    def __call__(self, severity: Severity, code: str, message: str, next_command: str = "", **evidence: Any) -> None:
        """Add one finding."""
        self.findings.append(
            finding(severity, code, message, expert=self.expert, evidence=evidence, next_command=next_command)
        )


def load_component(
    source: Source, folder: str, expert: str, role: Role, pool: Executor, files: Sequence[str] | None = None
) -> Component:
    """Read the headers, the index and the configuration of one transformer, or of another component.

    Args:
        files: the weight files of this transformer, if the folder holds those of another one too; ``None``: all.

    Faults of the files become findings of the component; only a source that fails raises (``SourceError``).
    """
    empty = Component(expert, role, source, folder, {})
    prefix = empty.prefix
    names = [path for path in source.files if path.startswith(prefix) and "/" not in path[len(prefix) :]]
    # folders of ComfyUI and GGUF files hold both experts; an index there may be the other expert's
    if files is not None:
        names = [path for path in names if path in files or not path.endswith((*WEIGHT_FILES, ".index.json"))]
    variants = _variants(names)
    names = [path for path in names if path not in variants]
    shards = sorted(path for path in names if path.endswith(WEIGHT_FILES))
    report = Report(expert)
    headers: dict[str, Header] = {}
    for path, result in zip(shards, pool.map(lambda item: _header(source, item), shards), strict=True):
        if isinstance(result, FileType):
            severity: Severity = "inconclusive" if result.code == "pickle_file" else "fault"
            report(severity, result.code, f"{path} is {result.text}.", result.next_command, file=path)
        elif isinstance(result, HeaderError):
            report("fault", "header_invalid", f"{path}: {result.message}.", reason=result.code, file=path)
        else:
            headers[path] = result
    # beside safetensors no loader takes a pickle, so it is not worth a finding
    pickles = sorted(path for path in names if path.endswith(PICKLES)) if not shards else []
    if pickles:
        text = f"{listed(pickles)}: a PyTorch pickle. Loading one runs code, so it was not read: nothing is proven."
        remedy = "convert it to safetensors where it was made (safetensors.torch.save_file)"
        report("inconclusive", "pickle_file", text, remedy, files=pickles)
    _unfinished(source, names, report)
    weight_map = _weight_map(source, names, report)
    stored = _join(headers, weight_map, prefix, set(shards), report)
    _gaps(shards, weight_map, report)
    # Checks of a transformer say nothing true of other weights: none of their tensors is handed on. A VAE and a text
    # encoder in their own folders are read here too, and their tensors are their identity.
    if expert in EXPERTS and (other := other_weights(stored)) is not None:
        report("inconclusive", "not_a_transformer", f"{listed(shards)} is {other.text}.", other.next_command)
        stored = {}
    naming = translate(stored)
    tensors = _translated(stored, naming, report)
    metadata = {key: value for header in headers.values() for key, value in header.metadata.items()}
    config, declared, configs = _configs(source, prefix, names, metadata, naming, report)
    hints = Hints(
        declared,
        {**_layer_markers(declared, naming), **_json_tensors(source, tensors, ".comfy_quant", report)},
        _torchao_types(metadata, naming),
        _json_tensors(source, tensors, ".weight.quant_state.bitsandbytes__", report),
        naming.library or ("modelslim" if declared.method == "modelslim" else ""),
    )
    return replace(
        empty,
        tensors=tensors,
        shards=tuple(shards),
        config=config,
        declaration=declared,
        metadata=metadata,
        configs=tuple(configs),
        findings=tuple(report.findings),
        naming=naming,
        hints=hints,
        stored=stored,
    )


def _translated(stored: Mapping[str, TensorEntry], naming: Naming, report: Report) -> dict[str, TensorEntry]:
    """Return the tensors under Diffusers' names. Report names that two stored tensors share."""
    if naming.clashes:
        text = (
            f"{len(naming.clashes)} tensors are stored under two names each ({listed(naming.clashes)}): which of them "
            "a runtime takes depends on its map."
        )
        report("fault", "duplicate_tensors", text, tensors=list(naming.clashes[:20]))
    tensors: dict[str, TensorEntry] = {}
    for old, new in naming.names.items():
        tensors.update(_unfused(replace(stored[old], name=new)))
    return tensors


FUSED = {".to_qkv.": ("to_q", "to_k", "to_v"), ".to_kv.": ("to_k", "to_v")}
"""Name part of a fused Linear to the names of its parts, in the order of their rows."""


def _unfused(entry: TensorEntry) -> dict[str, TensorEntry]:
    """Split a fused q, k, v tensor into its parts: row ranges, or the same scalar for each part.

    Any other tensor is returned alone under its own name.
    """
    mark = next((item for item in FUSED if item in entry.name), "")
    parts = FUSED.get(mark, ())
    rows = entry.shape[0] if entry.shape else 1
    # rows that do not divide evenly belong to no known fusion: the tensor stays whole, so no row is guessed
    if not parts or (rows > 1 and rows % len(parts)):
        return {entry.name: entry}
    split: dict[str, TensorEntry] = {}
    for number, part in enumerate(parts):
        name = entry.name.replace(mark, f".{part}.")
        split[name] = replace(entry, name=name)
        if rows > 1:
            size, shape = entry.nbytes // len(parts), (rows // len(parts), *entry.shape[1:])
            split[name] = replace(entry, name=name, shape=shape, start=entry.start + number * size, nbytes=size)
    return split


def _layer_markers(declared: Declaration, naming: Naming) -> dict[str, Mapping[str, Any]]:
    """Return module to its entry in ``_quantization_metadata``, which holds the facts of a ``comfy_quant`` tensor."""
    layers = declared.raw.get("layers") if declared.method == "comfy" else None
    items = layers.items() if isinstance(layers, Mapping) else ()
    return {module_to_diffusers(str(name), naming.prefix): item for name, item in items if isinstance(item, Mapping)}


def _json_tensors(
    source: Source, tensors: Mapping[str, TensorEntry], mark: str, report: Report
) -> dict[str, Mapping[str, Any]]:
    """Return module to the JSON object that its byte tensor holds.

    Bytes that are no JSON object are reported and give an empty object.
    """
    broken: list[str] = []
    by_file: dict[str, list[tuple[str, TensorEntry]]] = {}
    for name, entry in tensors.items():
        place = name.find(mark)
        if place > 0 and entry.dtype in ("U8", "I8") and entry.nbytes <= MAX_MARKER_BYTES:
            by_file.setdefault(entry.file, []).append((name[:place], entry))
    bodies: dict[str, Mapping[str, Any]] = {}
    for file, items in by_file.items():
        data = source.read_ranges(file, [(entry.start, entry.nbytes) for _, entry in items])
        for (module, _), raw in zip(items, data, strict=True):
            try:
                body = parse_foreign(raw, file)
            except UnreadableError:
                body = None
            bodies[module] = body if isinstance(body, dict) else {}
            if not isinstance(body, dict):
                broken.append(module)
    if broken:
        title = mark.removeprefix(".weight").strip(".").removesuffix(".bitsandbytes__")
        text = (
            f"{title} of {len(broken)} Linears ({listed(sorted(broken))}) is not a JSON object: a loader that parses "
            "it stops, and none can read the format from it."
        )
        report("fault", "config_invalid", text, "fetch the file again, or export again", modules=sorted(broken)[:20])
    return bodies


def _torchao_types(metadata: Mapping[str, str], naming: Naming) -> dict[str, str]:
    """Return module to torchao's class of its weight, read from the header's metadata."""
    if naming.library != "torchao" and "tensor_names" not in metadata:
        return {}
    types: dict[str, str] = {}
    for name, text in metadata.items():
        if not name.endswith(".weight"):
            continue
        try:
            body = parse_foreign(text, name)
        except UnreadableError:
            continue
        kind = body.get("_type") if isinstance(body, dict) else None
        if isinstance(kind, str) and kind != "Tensor":
            types[module_to_diffusers(name.removesuffix(".weight"), naming.prefix)] = kind
    return types


def _variants(names: Sequence[str]) -> set[str]:
    """Return files of other precisions beside the weights, such as ``model.fp16.safetensors``: no loader takes both.

    Empty if every weight file has such a name: then they are the weights.
    """
    weights = [path for path in names if path.endswith((".safetensors", ".safetensors.index.json"))]
    other = {path for path in weights if _VARIANT.search(path)}
    return other if len(other) < len(weights) else set()


def _header(source: Source, path: str) -> Header | HeaderError | FileType:
    size = source.files[path].size
    reader = read_gguf_header if path.endswith(".gguf") else read_header
    try:
        return reader(path, size, lambda start, length: source.read(path, start, length))
    except HeaderError as error:
        # a git-lfs pointer, a web page or a pickle under this name explains more than "bad header" does
        kind = sniff(source.read(path, 0, min(size, SNIFF)))
        return error if kind is None or (path.endswith(".gguf") and "GGUF" in kind.text) else kind


def _weight_map(source: Source, names: Iterable[str], report: Any) -> dict[str, str] | None:
    indexes = [name for name in names if name.endswith(".safetensors.index.json")]
    if not indexes:
        return None
    try:
        weight_map = read_json(source, indexes[0]).get("weight_map")
    except ConfigError as error:
        report("fault", "index_invalid", f"{indexes[0]}: {error.message}.", file=indexes[0])
        return None
    if not isinstance(weight_map, dict) or not all(isinstance(item, str) for item in weight_map.values()):
        report("fault", "index_invalid", f"{indexes[0]}: weight_map is not a map of names.", file=indexes[0])
        return None
    # the index is untrusted: it must not make the reader open files of other folders
    if outside := sorted({item for item in weight_map.values() if "/" in item or "\\" in item or item.startswith(".")}):
        report("fault", "index_invalid", f"{indexes[0]} points outside its folder: {listed(outside)}.", files=outside)
        return None
    return weight_map


UNFINISHED = (".aria2", ".part", ".crdownload", ".incomplete", ".download", ".opdownload", ".!ut", ".tmp")
"""Endings that download programs give to a file, or to their record beside it, until it is complete."""


HOLES, HOLE = 16, 4096
"""Windows of a weight file, and bytes of each, that are looked at for the zeros of a reserved file."""


def _has_holes(source: Source, path: str) -> bool:
    """Return whether a file is empty, or one of evenly spaced windows holds zeros only, as reserved space does."""
    size = source.files[path].size
    spans = [(size * place // HOLES, min(HOLE, size)) for place in range(1, HOLES)] + [(max(0, size - HOLE), HOLE)]
    ranges = [(first, min(length, size - first)) for first, length in spans if first < size]
    return not ranges or any(not any(data) for data in source.read_ranges(path, ranges))


def _unfinished(source: Source, names: Sequence[str], report: Report) -> None:
    """Report weight files whose download did not end: its program's own file still lies there.

    It is information only if the weight file is there under its own name and has no holes: it was downloaded again.
    """
    left = sorted(
        path
        for path in names
        if path.lower().endswith(UNFINISHED) and path[: path.rfind(".")].endswith((*WEIGHT_FILES, *PICKLES))
    )
    whole = [path for path in left if path[: path.rfind(".")] in source.files]
    if whole and not any(_has_holes(source, path[: path.rfind(".")]) for path in whole):
        text = f"{listed(whole)}: left by a download that was broken off; the weight file beside it is whole."
        report("info", "download_unfinished", text, "delete it", files=whole[:20])
        left = [path for path in left if path not in whole]
    if left:
        text = (
            f"{listed(left)}: a download of weights was not finished, and its program reserves the whole size at once: "
            "the rest of the file may be zeros."
        )
        report("fault", "download_unfinished", text, "continue the download, or fetch the file again", files=left[:20])


_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d+)-of-(?P<count>\d+)\.(safetensors|gguf)$")
MAX_PARTS = 10_000


def _gaps(shards: Sequence[str], weight_map: Mapping[str, str] | None, report: Any) -> None:
    """Report absent parts of a numbered set without an index: the names of the others state how many there are."""
    if weight_map is not None:
        return
    sets: dict[tuple[str, int], set[int]] = {}
    for path in shards:
        if (match := _PART.fullmatch(path)) is not None and 0 < int(match["count"]) <= MAX_PARTS:
            sets.setdefault((match["stem"], int(match["count"])), set()).add(int(match["number"]))
    for (stem, count), numbers in sets.items():
        # some programs count from 0
        first = 0 if 0 in numbers else 1
        if absent := sorted(set(range(first, first + count)) - numbers):
            text = (
                f"{stem} is stored in {count} parts, and part {listed([str(number) for number in absent])} is not here "
                "(there is no index either): its tensors are absent."
            )
            report("fault", "shard_missing", text, "fetch the missing parts", files=absent[:20], count=len(absent))


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
                f"{len(twice)} tensors stand in more than one file ({listed(sorted(twice))}): which one wins is chance."
            )
            report("fault", "duplicate_tensors", text, tensors=sorted(twice)[:20])
        return tensors
    wanted = {prefix + name for name in weight_map.values()}
    if missing := sorted(wanted - shards):
        lost = sum(prefix + name in missing for name in weight_map.values())
        text = f"the index names {listed(missing)}, and there is no such file: {lost} tensors are absent."
        report("fault", "shard_missing", text, files=missing, tensors=lost)
    tensors, stale = {}, []
    for name, file in weight_map.items():
        shard = headers.get(prefix + file)
        if shard is not None and name in shard.tensors:
            tensors[name] = shard.tensors[name]
        elif shard is not None:
            stale.append(name)
    if stale:
        text = f"the index places {listed(sorted(stale))} in a shard that does not hold it: the index is stale."
        report("fault", "index_stale", text, tensors=sorted(stale)[:20], count=len(stale))
    loose = sorted(
        name
        for path, header in headers.items()
        for name in header.tensors
        if prefix + weight_map.get(name, "") != path and name not in stale
    )
    if loose:
        text = f"{len(loose)} stored tensors are not where the index says ({listed(loose)}): a loader that globs takes "
        report("fault", "unindexed_tensors", f"{text}them.", tensors=loose[:20], count=len(loose))
    return tensors


def _configs(
    source: Source, prefix: str, names: Iterable[str], metadata: Mapping[str, str], naming: Naming, report: Any
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
            report("fault", "config_invalid", f"{path}: {error.message}.", file=path)

    for path in (f"{prefix}config.json", f"{prefix}hf_quant_config.json", "hf_quant_config.json"):
        if path not in present or path in read:
            continue
        read.append(path)
        try:
            body = read_json(source, path)
        except ConfigError as error:
            text = f"{path} cannot be read ({error.message}); a runtime that swallows this loads it as unquantized."
            report("fault", "config_invalid", text, file=path)
            continue
        if path.endswith("hf_quant_config.json"):
            attempt(path, body, "hf_quant_config.json", shared=bool(prefix) and not path.startswith(prefix))
            continue
        config = body
        if body.get("quantization_config") is not None:
            attempt(path, body["quantization_config"], "config.json")
    # msModelSlim's description counts only if no configuration declares anything
    for path in sorted(name for name in present if DESCRIPTION.search(name) and not candidates):
        read.append(path)
        try:
            attempt(path, described(read_json(source, path)), path.removeprefix(prefix))
        except ConfigError as error:
            report("fault", "config_invalid", f"{path}: {error.message}.", file=path)
    for key in ("quantization_config", "_quantization_metadata"):
        if key in metadata:
            try:
                body = parse_foreign(metadata[key], f"shard metadata {key}")
            except UnreadableError as error:
                report("fault", "config_invalid", f"shard metadata {key} is not JSON ({reason(error)}).", key=key)
                continue
            if key == "quantization_config":
                attempt("shard metadata", body, "shard metadata")
            # layer formats in the header count only if no other place declares anything
            elif isinstance(body, Mapping) and not candidates:
                attempt("shard metadata", _layers(body), "shard metadata")
    # a declaration at the repository's root covers both experts and may differ from one expert's own
    _hold_together([item for item in candidates if not item.shared], report)
    if not candidates:
        return config, NOTHING, read
    return config, _named(candidates[0], naming, report), read


def _named(declared: Declaration, naming: Naming, report: Any) -> Declaration:
    """Return the declaration with Diffusers' names for its layers. Report a fault for layers that name no tensor."""
    stems = {split_parts(name)[0].rpartition(".")[0]: name for name in naming.names}
    stems_by_module = {module_to_diffusers(stem, naming.prefix): stem for stem in stems}
    # ComfyUI looks its layers up under the stored names only
    if declared.method == "comfy" and naming.names:
        lost = sorted(name for name in declared.layers if name not in stems)
    else:
        lost = (
            sorted(name for name in declared.layers if name not in stems and name not in stems_by_module)
            if naming.names
            else []
        )
    if lost:
        other = [name for name in lost if f"{naming.prefix}{name}" in stems]
        why = f": the tensors carry {naming.prefix!r} in front and the layers do not" if other and naming.prefix else ""
        text = (
            f"{len(lost)} of {len(declared.layers)} layers that {declared.origin} declares name no tensor "
            f"({listed(lost)}){why}. A loader leaves their bytes as they are."
        )
        remedy = "write the layers under the names that the tensors have"
        report("fault", "layers_unmatched", text, remedy, layers=lost[:20], count=len(lost), prefix=naming.prefix)
    layers = {module_to_diffusers(name, naming.prefix): algo for name, algo in declared.layers.items()}
    originals = {new: (old, old.removeprefix(naming.prefix)) for new, old in stems_by_module.items() if new != old}
    return replace(declared, layers=layers, originals=originals)


def _hold_together(declarations: list[Declaration], report: Any) -> None:
    """Compare the first declaration with all others and report differences: runtimes choose between them differently.

    Another format or other layers are a fault, other ignore lists a warning.
    """
    for other in declarations[1:]:
        first = declarations[0]
        if (first.format, first.layers) != (other.format, other.layers):
            text = (
                f"{first.origin} declares {first.algo or first.method} and {other.origin} {other.algo or other.method}"
            )
            report("fault", "declarations_differ", f"{text}: which one counts depends on the runtime.")
        elif first.ignore and other.ignore and set(first.ignore) != set(other.ignore):
            odd = listed(sorted(set(first.ignore) ^ set(other.ignore)))
            text = f"the ignore lists of {first.origin} and {other.origin} differ in {odd}"
            report("warning", "declarations_differ", f"{text}: which one counts depends on the runtime.")


def _layers(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``_quantization_metadata`` (Comfy, diffusers: one format per layer) as a ``quantization_config``."""
    layers = body.get("layers")
    items = layers.items() if isinstance(layers, Mapping) else ()
    algos = {str(name): _algo(str(item.get("format", ""))) for name, item in items if isinstance(item, Mapping)}
    algorithms = set(algos.values()) - {""}
    algo = body.get("quant_algo") or ("MIXED_PRECISION" if len(algorithms) > 1 else next(iter(algorithms), ""))
    named = {name: {"quant_algo": algo} for name, algo in algos.items()}
    return {"quantized_layers": named, **body, "quant_algo": algo, "quant_method": body.get("quant_method", "comfy")}


def _algo(name: str) -> str:
    if name.startswith("mx"):
        return name.upper()
    return "NVFP4" if name == "nvfp4" else "FP8" if "fp8" in name or "float8" in name else name
