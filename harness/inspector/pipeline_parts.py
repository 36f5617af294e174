"""Judge the components beside the transformers, as a pipeline and against the base: values, not only headers.

Source of the rules: diffusers pipelines/wan (input and output channels), transformers UMT5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from typing import Any

from harness.formats.codecs import FLOAT_DTYPES
from harness.formats.header import TensorEntry
from harness.inspector.architectures import PIPELINES, channels_of, channels_wanted, misfits, unusual_boundary
from harness.inspector.class_defaults import unread_keys, with_defaults
from harness.inspector.findings import about, finding
from harness.inspector.gather import compare, read_windows, windows
from harness.inspector.index import Component
from harness.inspector.parts import PartFiles, Parts
from harness.inspector.sources import Source
from harness.records.inspection import InspectionFinding
from harness.text import listed

SCALES = ("weight_scale", "scale_weight", "weight_scale_inv", "weight_scale_2", "SCB", "weight._scale")
UNREAD = frozenset({
    "_name_or_path", "_diffusers_version", "transformers_version", "_commit_hash", "torch_dtype", "dtype",
    "architectures", "name_or_path", "tokenizer_file", "tokenizer_class", "special_tokens_map_file", "use_cache",
    "quantization_config", "_class_name", "backend", "is_local", "processor_class", "local_files_only",
})  # fmt: skip
"""Keys of configurations that change no computed value, or that other checks judge."""
JSON_FILES = ("config.json", "scheduler_config.json", "tokenizer_config.json")
BATCH = 32
LOCAL_ELEMENTS, REMOTE_ELEMENTS = 1 << 14, 512


def unscaled(parts: Parts) -> Iterator[InspectionFinding]:
    """Yield a fault per component (text encoder, VAE) with FP8 weights that have no scale and no declaration."""
    for name, part in parts.files.items():
        eight = [key for key, entry in part.tensors.items() if entry.dtype.startswith("F8_E") and len(entry.shape) > 1]
        scaled = {key.rsplit(f".{suffix}", 1)[0] for key in part.tensors for suffix in SCALES if f".{suffix}" in key}
        lost = sorted(key for key in eight if key.removesuffix(".weight") not in scaled)
        if lost and not part.config.get("quantization_config"):
            yield finding(
                "fault",
                "component_unscaled",
                f"{name}: {len(lost)} weights are stored in FP8 without a scale ({listed(lost)}), and "
                f"{name}/config.json declares no quantization: a loader reads the codes as the weights.",
                tensor=lost[0],
                evidence={"component": name, "tensors": lost[:20], "count": len(lost)},
                next_command=f"take {name}/ from the base, or write its scales and quantization_config",
            )


def mismatched(
    index: Mapping[str, Any] | None, experts: Mapping[str, Component], parts: Parts
) -> Iterator[InspectionFinding]:
    """Yield a fault per size that two components of one pipeline must share and do not."""
    for text, components in _mismatches(index or {}, experts, parts):
        yield finding(
            "fault",
            "component_mismatch",
            f"{text}.",
            evidence={"components": list(components)},
            next_command=f"take {components[0]}/ from the base that the transformers were made from",
        )
    yield from unusual_boundary(index or {}, experts)


def _mismatches(
    index: Mapping[str, Any], experts: Mapping[str, Component], parts: Parts
) -> Iterator[tuple[str, tuple[str, str]]]:
    vae, text, scheduler = (parts.files.get(name, PartFiles()).config for name in ("vae", "text_encoder", "scheduler"))
    size = vae.get("z_dim", vae.get("latent_channels"))
    for expert, component in experts.items():
        config = component.config
        pair = channels_of(component)
        if isinstance(size, int) and all(isinstance(item, int) for item in pair):
            taken = channels_wanted(index, config, size)
            if pair[1] != size or (index.get("_class_name") in PIPELINES and pair[0] not in taken):
                sentence = f"vae has z_dim {size}, and {expert} has in_channels {pair[0]} and out_channels {pair[1]}"
                if index.get("_class_name") in PIPELINES:
                    sentence += f": {index['_class_name']} gives it {taken[0]} channels and takes {size}"
                yield sentence, ("vae", expert)
        width, expected = text.get("d_model", text.get("hidden_size")), config.get("text_dim")
        if isinstance(width, int) and isinstance(expected, int) and width != expected:
            yield (
                f"text_encoder has width {width}, and {expert} takes text of width {expected}",
                ("text_encoder", expert),
            )
    yield from misfits(index, experts, vae)
    for key in ("latents_mean", "latents_std"):
        values = vae.get(key)
        if isinstance(size, int) and isinstance(values, list) and len(values) != size:
            yield f"vae has z_dim {size} and {len(values)} values of {key}", ("vae", "vae")
        elif key == "latents_std" and isinstance(values, list) and not all(_positive(item) for item in values):
            yield "vae has a latents_std that is zero, negative or no number", ("vae", "vae")
    vocabulary, vocabulary_size = parts.files.get("tokenizer", PartFiles()).vocabulary, text.get("vocab_size")
    if isinstance(vocabulary_size, int) and vocabulary > vocabulary_size:
        yield (
            f"tokenizer has {vocabulary} pieces, and text_encoder embeds {vocabulary_size}",
            ("tokenizer", "text_encoder"),
        )
    for name, config in (("scheduler", scheduler), ("vae", vae)):
        declared = index.get(name)
        kind = config.get("_class_name")
        if isinstance(declared, list) and len(declared) == 2 and kind and declared[1] not in (None, kind):
            yield f"model_index.json names {declared[1]} for {name}, and its configuration is of {kind}", (name, name)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def against_base(source: Source, parts: Parts, base: Source, anchor: Parts, pool: Executor) -> Parts:
    """Compare every component beside the transformers with the base's.

    Configurations and vocabularies are compared by value, weights by windows of every tensor.

    Returns:
        Findings, and a list of the comparisons made.

    Raises:
        SourceError: a source failed.
    """
    findings: list[InspectionFinding] = []
    compared: list[str] = []
    for name in sorted(parts.files.keys() & anchor.files.keys()):
        present, anchor_files = parts.files[name], anchor.files[name]
        findings += _settings(name, present, anchor_files)
        if (
            present.tensors
            and anchor_files.tensors
            and not any(item.dtype.startswith("F8") for item in present.tensors.values())
        ):
            local = source.is_local and base.is_local
            findings += _weights(
                name, source, present, base, anchor_files, pool, LOCAL_ELEMENTS if local else REMOTE_ELEMENTS
            )
            compared.append(
                f"{name}: windows of {len(present.tensors)} tensors and its configuration against the base's"
            )
        elif not present.tensors:
            compared.append(f"{name}: its JSON files against the base's")
    return Parts(tuple(findings), tuple(compared))


def _settings(name: str, present: PartFiles, anchor_files: PartFiles) -> Iterator[InspectionFinding]:
    """Yield findings for configuration values and tokenizer files that differ from the base's."""
    for file in sorted(present.json.keys() & anchor_files.json.keys()):
        new, old = read_values(file, present), read_values(file, anchor_files)
        if new == old:
            continue
        if isinstance(new, Mapping) and isinstance(old, Mapping) and file in JSON_FILES:
            # a key that is left out has its class's default
            new, old = with_defaults(new, old), with_defaults(old, new)
            keys = sorted(key for key in {*new, *old} - UNREAD if new.get(key) != old.get(key))
            pairs = [f"{key} {_short(new.get(key))} for {_short(old.get(key))}" for key in keys]
        else:
            keys = [file]
            pairs = [f"{file} holds other values"]
        # an index only places tensors in files; the tensors themselves are compared below
        if not keys or file.endswith(".index.json"):
            continue
        # a case states the scheduler's settings itself, so that its file is a hint only
        soft = name == "scheduler"
        yield finding(
            "warning" if soft else "fault",
            "component_differs",
            f"{name}/{file}: {listed(pairs)}: not the base's, so it draws something else.",
            evidence={"component": name, "file": file, "keys": keys[:20]},
            next_command=f"take {name}/ from the base, or name the base that it belongs to",
        )


OF_LAST_CALL = ("padding", "truncation")
"""Keys of ``tokenizer.json`` that a tokenizer keeps of its last call; every call states its own."""


def read_values(file: str, part: PartFiles) -> Any:
    """Return the values of a component's JSON file that a loader reads.

    Left out are keys of other versions that the file's class has not; of ``tokenizer_config.json`` empty values, the
    clean-up of decoded text, and added tokens that ``tokenizer.json`` lists too; of ``tokenizer.json`` `OF_LAST_CALL`.
    """
    body = part.json[file]
    if not isinstance(body, Mapping):
        return body
    if file == "tokenizer.json":
        return {key: value for key, value in body.items() if key not in OF_LAST_CALL}
    if file == "tokenizer_config.json":
        return {
            key: value for key, value in body.items() if value not in ([], {}, None) and not _repeated(key, value, part)
        }
    unread = unread_keys(body)
    return {key: value for key, value in body.items() if key not in unread}


def _repeated(key: str, value: Any, part: PartFiles) -> bool:
    """Return whether a key of ``tokenizer_config.json`` says nothing that ``tokenizer.json`` does not say."""
    if key == "clean_up_tokenization_spaces":
        return True
    tokens = part.json.get("tokenizer.json")
    if key != "added_tokens_decoder" or not isinstance(tokens, Mapping) or not isinstance(value, Mapping):
        return False
    rows = [row for row in tokens.get("added_tokens") or () if isinstance(row, Mapping)]
    listed = {str(row.get("id")): row.get("content") for row in rows}
    return all(isinstance(row, Mapping) and listed.get(number) == row.get("content") for number, row in value.items())


TIED = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"}
"""Names of the text encoder's table of tokens: Transformers ties them, and some exporters store both."""


def without_ties(tensors: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Return the tensors without second names of a table that is there under its first name, in the same shape."""
    return {
        name: entry
        for name, entry in tensors.items()
        if name not in TIED or TIED[name] not in tensors or tensors[TIED[name]].shape != entry.shape
    }


def _second_names(tensors: Mapping[str, TensorEntry]) -> list[tuple[str, str]]:
    return [(name, TIED[name]) for name in sorted(tensors.keys() - without_ties(tensors).keys())]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _weights(
    name: str, source: Source, present: PartFiles, base: Source, anchor_files: PartFiles, pool: Executor, limit: int
) -> Iterator[InspectionFinding]:
    absent, extra = (
        sorted(without_ties(anchor_files.tensors).keys() - present.tensors.keys()),
        sorted(without_ties(present.tensors).keys() - anchor_files.tensors.keys()),
    )
    twins = [(present.tensors[name], present.tensors[first]) for name, first in _second_names(present.tensors)]
    if differing_twins := [name for name, _ in _compare(source, source, twins, limit)]:
        yield _differs(name, differing_twins, f"{listed(differing_twins)} and the table that it is tied to differ")
    shapes = sorted(
        key
        for key in present.tensors.keys() & anchor_files.tensors
        if present.tensors[key].shape != anchor_files.tensors[key].shape
    )
    for names, text in (
        (absent, "are absent"),
        (extra, "are not the base's"),
        (shapes, "have another shape than the base's"),
    ):
        if names:
            yield _differs(name, names, f"{len(names)} tensors {text} ({listed(names)})")
    pairs = [
        (present.tensors[key], anchor_files.tensors[key])
        for key in sorted(present.tensors.keys() & anchor_files.tensors)
        if key not in shapes
        and present.tensors[key].dtype in FLOAT_DTYPES
        and anchor_files.tensors[key].dtype in FLOAT_DTYPES
    ]
    batches = [pairs[first : first + BATCH] for first in range(0, len(pairs), BATCH)]
    results = [item for batch in pool.map(lambda item: _compare(source, base, item, limit), batches) for item in batch]
    differing = sorted(results, key=lambda item: -item[1])
    if differing:
        names = [item[0] for item in differing]
        worst = f"by up to {differing[0][1] * 100:.2g} %"
        yield _differs(
            name, names, f"{len(names)} of {len(pairs)} tensors differ from the base's, {worst} ({listed(names)})"
        )


def _compare(
    source: Source, base: Source, pairs: list[tuple[TensorEntry, TensorEntry]], limit: int
) -> list[tuple[str, float]]:
    """Return names and relative errors of the tensors of a batch that differ."""
    values = read_windows(source, [pair[0] for pair in pairs], limit)
    base_values = read_windows(base, [pair[1] for pair in pairs], limit)
    differing = []
    for (entry, _), window, other in zip(pairs, values, base_values, strict=True):
        result = compare(entry, window, other, len(windows(entry, limit)) == 1)
        if not result.equal:
            differing.append((entry.name, result.relative_error))
    return differing


def _differs(name: str, names: list[str], text: str) -> InspectionFinding:
    return finding(
        "fault",
        "component_differs",
        f"{name}: {text}: not the base's, so it draws something else.",
        tensor=names[0],
        evidence={"component": name, "tensors": names[:20], "count": len(names)},
        next_command=f"take {name}/ from the base, or name the base that it belongs to",
    )


def added_settings(experts: Mapping[str, Component], base: Mapping[str, Component]) -> Iterator[InspectionFinding]:
    """Yield findings for keys of a transformer's configuration that the base lacks (warning) or that differ (fault)."""
    for expert, component in experts.items():
        if expert not in base or not component.config or not base[expert].config:
            continue
        new, old = component.config, base[expert].config
        if new.get("_class_name") != old.get("_class_name"):
            continue
        new, old = with_defaults(new, old), with_defaults(old, new)
        added = sorted(key for key in new if key not in old and key not in UNREAD and new[key] is not None)
        changed = sorted(key for key in new.keys() & old.keys() - UNREAD if new[key] != old[key])
        if added:
            yield about(
                "config_key_added",
                expert,
                f"config.json has {listed(added)}, which the base lacks: a runtime that reads them computes "
                "something else than the base does.",
                severity="warning",
                **{key: str(new[key])[:200] for key in added[:20]},
            )
        if changed:
            pairs = [f"{key} {_short(new[key])} for {_short(old[key])}" for key in changed]
            yield about(
                "config_differs",
                expert,
                f"config.json has {listed(pairs)}: another model than the base's.",
                next_command=f"take the values of the base's {expert}/config.json",
                keys=changed[:20],
            )
