"""Read a checkpoint's quantization declaration: new and old ModelOpt schema, compressed-tensors, shard metadata."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.formats.errors import ConfigError
from harness.formats.registry import known_formats
from harness.reading import UnreadableError, parse_object, reason
from harness.records.inspection import StoredFormat

MAX_CONFIG_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Declaration:
    """A quantization declaration as read, before any runtime's defaults."""

    origin: str
    """``config.json``, ``hf_quant_config.json`` or ``shard metadata``; empty: nothing is declared."""
    method: str = ""
    algo: str = ""
    format: StoredFormat | None = None
    ignore: tuple[str, ...] = ()
    group_size: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)
    """Algorithm by module, if the declaration names every quantized Linear (ModelOpt's MIXED_PRECISION, Comfy)."""
    shared: bool = False
    """The file is at the repository's root, so it covers both experts."""
    loose: bool = False
    """The ignore list follows transformers' rule: a name covers every module that has it among its parts."""
    originals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Module to the names that the file itself gives it, if they were translated."""

    @property
    def bits(self) -> int | None:
        """Return the bits of a weight if the declaration states one number: ``num_bits``, ``bits`` or ``w_bit``."""
        stated = [
            group["weights"].get("num_bits") for group in _groups(self.raw) if isinstance(group.get("weights"), Mapping)
        ]
        stated += [self.raw.get(name) for name in ("bits", "num_bits", "w_bit")]
        numbers = {value for value in stated if isinstance(value, int) and not isinstance(value, bool)}
        return next(iter(numbers)) if len(numbers) == 1 else None

    @property
    def block_size(self) -> tuple[int, int] | None:
        """Return rows and columns that share a scale: ``weight_block_size``, or ``block_structure`` of all groups.

        ``None`` if neither states one pair of positive numbers.
        """
        stated = [self.raw.get("weight_block_size")]
        stated += [
            group["weights"].get("block_structure")
            for group in _groups(self.raw)
            if isinstance(group.get("weights"), Mapping) and group["weights"].get("strategy") == "block"
        ]
        sizes = {
            (item[0], item[1])
            for item in stated
            if isinstance(item, list) and len(item) == 2 and all(type(number) is int and number > 0 for number in item)
        }
        return next(iter(sizes)) if len(sizes) == 1 else None

    @property
    def declared(self) -> bool:
        """Return whether the checkpoint declares anything."""
        return bool(self.origin)

    def flag(self, name: str) -> Any:
        """Return a runtime switch such as ``swap_weight_nibbles``, from the top level or the old schema's section."""
        section = self.raw.get("quantization")
        nested = section.get(name) if isinstance(section, Mapping) else None
        return self.raw.get(name, nested)

    def algo_of(self, module: str) -> str:
        """Return the algorithm declared for one Linear."""
        return self.layers.get(module, self.algo)

    def format_of(self, module: str) -> StoredFormat | None:
        """Return the format declared for one Linear; ``None`` if none is declared or it is unknown here."""
        if self.layers:
            return declared_format(self.layers.get(module, ""), {})
        return self.format

    def asymmetric(self, module: str) -> bool:
        """Return whether the weight of one Linear is declared asymmetric: its codes need a zero point."""
        groups = (group.get("weights") for group in _groups(self.raw) if _targets(group, module))
        return any(
            isinstance(weights, Mapping) and weights.get("symmetric") is False and weights.get("type") == "int"
            for weights in groups
        )

    def static_inputs(self, module: str) -> bool | None:
        """Return whether activations of one Linear are quantized with a stored scale; ``None`` if not declared."""
        algo = self.algo_of(module).upper()
        if self.flag("dynamic_input_scale") is True or algo.endswith("_PER_TOKEN") or algo.startswith(WEIGHT_ONLY):
            return False
        groups = [group for group in _groups(self.raw) if _targets(group, module)]
        if not groups:
            return None
        inputs = [group.get("input_activations") for group in groups]
        return any(isinstance(entry, Mapping) and entry.get("dynamic") is not True for entry in inputs)

    @property
    def producer(self) -> tuple[str, str]:
        """Return name and version of the exporter; empty if not declared."""
        producer = self.raw.get("producer")
        producer = producer if isinstance(producer, Mapping) else {}
        return str(producer.get("name", "")), str(producer.get("version", ""))

    def ignores(self, module: str) -> str | None:
        """Return the first ignore pattern that covers ``module`` under any of its names, or ``None``."""
        names = (module, *self.originals.get(module, ()))
        return next((pattern for pattern in self.ignore if any(self._covers(pattern, name) for name in names)), None)

    def _covers(self, pattern: str, module: str) -> bool:
        return pattern_matches(pattern, module) or (self.loose and f".{pattern}." in f".{module}.")


def pattern_matches(pattern: str, module: str) -> bool:
    """Return whether a pattern covers a module: a glob of the full name, ``re:`` and a regex, or a parent's name.

    ``re:`` is compressed-tensors' notation. A regex that does not compile covers nothing.
    """
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], module) is not None
        except re.error:
            return False
    return fnmatch.fnmatchcase(module, pattern) or module.startswith(f"{pattern}.")


IGNORE_KEYS = ("modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules", "skip_modules", "exclude")
"""Keys under which transformers, vLLM and diffusers list the modules that are not quantized."""
WEIGHT_ONLY = ("W4A16", "W8A16")
"""Prefixes of algorithms that do not quantize activations."""
NOTHING = Declaration(origin="")


def parse_json(data: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object strictly: duplicate keys, NaN and non-objects are errors. Raises ``ConfigError``."""

    # checkpoints are untrusted: a huge file must not fill the memory
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"a configuration of {len(data)} bytes", place=place)
    try:
        return parse_object(data, place)
    except UnreadableError as error:
        remedy = "a runtime that swallows this error loads the checkpoint as unquantized"
        raise ConfigError(f"not a JSON object that can be read ({reason(error)})", place=place, remedy=remedy) from None


def declaration(body: Mapping[str, Any], origin: str) -> Declaration:
    """Return the declaration of a ``quantization_config`` or of a whole ``hf_quant_config.json``.

    Raises:
        ConfigError: a field of the wrong type.
    """
    section = body.get("quantization")
    if section is not None and not isinstance(section, Mapping):
        raise ConfigError("`quantization` is not an object", place=origin)
    inner: Mapping[str, Any] = section if isinstance(section, Mapping) else {}
    ignore = body.get("ignore", inner.get("exclude_modules", body.get("exclude_modules")))
    # the keys below belong to libraries that match a name anywhere in a module's path
    loose = ignore is None
    if ignore is None:
        ignore = next((body[key] for key in IGNORE_KEYS if body.get(key) is not None), None)
    ignore = [] if ignore is None else ignore
    if not isinstance(ignore, list) or not all(isinstance(item, str) for item in ignore):
        raise ConfigError("the ignore list is not a list of names", place=origin)
    algo = body.get("quant_algo", inner.get("quant_algo")) or ""
    # ModelOpt's old schema has a section and names no method
    method = body.get("quant_method") or ("modelopt" if section is not None else "")
    if not isinstance(algo, str) or not isinstance(method, str):
        raise ConfigError("quant_algo and quant_method are strings", place=origin)
    if not algo:
        algo = _algo_of_method(method, body)
    group = _group_size(body, inner)
    layers = _layers(body.get("quantized_layers", inner.get("quantized_layers")))
    form = declared_format(algo, body)
    return Declaration(origin, method, algo, form, tuple(ignore), group, dict(body), layers, loose=loose)


DESCRIPTION = re.compile(r"(^|/)quant_model_description[^/]*\.json$")
"""msModelSlim's file beside the weights: an algorithm for every tensor, ``FLOAT`` if it is not quantized."""


def described(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return msModelSlim's ``quant_model_description.json`` as a ``quantization_config`` with an algorithm per layer.

    Raises:
        ConfigError: no entry names a weight.
    """
    weights = {
        name.removesuffix(".weight"): algo
        for name, algo in body.items()
        if name.endswith(".weight") and isinstance(algo, str)
    }
    if not weights:
        raise ConfigError("no entry names a weight", place="quant_model_description.json")
    layers = {name: {"quant_algo": algo} for name, algo in weights.items() if algo != "FLOAT"}
    algos = {item["quant_algo"] for item in layers.values()}
    algo = next(iter(algos)) if len(algos) == 1 else "MIXED_PRECISION" if algos else "FLOAT"
    return {"quant_method": "modelslim", "quant_algo": algo, "quantized_layers": layers}


def _algo_of_method(method: str, body: Mapping[str, Any]) -> str:
    """Return the algorithm's name from ``quant_method`` or from a field that only this method has; empty if unknown."""
    if method == "compressed-tensors":
        form = str(body.get("format", ""))
        bits = {
            group["weights"].get("num_bits") for group in _groups(body) if isinstance(group.get("weights"), Mapping)
        }
        return "int4-quantized" if form == "int-quantized" and bits == {4} else form
    if method == "bitsandbytes":
        return f"bnb_{body.get('bnb_4bit_quant_type', 'fp4')}" if body.get("load_in_4bit") else "LLM.int8"
    if method == "torchao":
        kind = body.get("quant_type")
        default = kind.get("default") if isinstance(kind, Mapping) else kind
        return str(default.get("_type", "")) if isinstance(default, Mapping) else str(default or "")
    if method == "quark":
        weight = body.get("global_quant_config")
        weight = weight.get("weight") if isinstance(weight, Mapping) else None
        return QUARK.get(str(weight.get("dtype")), "") if isinstance(weight, Mapping) else ""
    return method.upper() if method in (*known_formats(), "fbgemm_fp8") else ""


QUARK = {"fp8_e4m3": "FP8", "fp8_e5m2": "FP8", "fp4": "MXFP4", "int8": "INT8"}
"""AMD Quark's name of a weight's type to the algorithm."""


def declared_format(algo: str, body: Mapping[str, Any]) -> StoredFormat | None:
    """Return the stored format of an algorithm's name or, if the name is unknown, of ``config_groups``.

    ``None`` if this version has no rule for either.
    """
    name = algo.upper().replace("-", "_")
    for form in known_formats().values():
        if form.matches(name):
            return form.name
    if name == "MIXED_PRECISION":
        return "mixed"
    bits, kinds = set(), set()
    for group in _groups(body):
        weights = group.get("weights")
        if isinstance(weights, Mapping):
            bits.add(weights.get("num_bits"))
            kinds.add(weights.get("type"))
    only = next(iter(bits)) if len(bits) == 1 else None
    formats = {form.group_bits: form.name for form in known_formats().values() if form.group_bits is not None}
    return formats.get(only) if kinds == {"float"} and isinstance(only, int) else None


def _layers(declared: Any) -> dict[str, str]:
    """Return algorithm by module name."""
    items = declared.items() if isinstance(declared, Mapping) else ()
    return {str(name): str(entry.get("quant_algo", "")) for name, entry in items if isinstance(entry, Mapping)}


def _targets(group: Mapping[str, Any], module: str) -> bool:
    """Return whether a group of ``config_groups`` covers a Linear: by its class, its name or a pattern."""
    targets = group.get("targets")
    if not isinstance(targets, list):
        return True
    return any(isinstance(name, str) and (name == "Linear" or pattern_matches(name, module)) for name in targets)


def _groups(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = body.get("config_groups")
    return [group for group in groups.values() if isinstance(group, Mapping)] if isinstance(groups, Mapping) else []


def _group_size(body: Mapping[str, Any], inner: Mapping[str, Any]) -> int | None:
    candidates: list[Any] = [body.get("group_size"), inner.get("group_size")]
    candidates += [
        group["weights"].get("group_size") for group in _groups(body) if isinstance(group.get("weights"), Mapping)
    ]
    return next((value for value in candidates if isinstance(value, int) and not isinstance(value, bool)), None)
