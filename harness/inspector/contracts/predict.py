"""Predict how a runtime will load a checkpoint, from contract, declarations and tensor headers. No data is read."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

from harness.formats.modules import PACKED_QKV
from harness.inspector.contracts.model import Names, Rules, Signal, SwitchRule
from harness.reading import UnreadableError, parse_foreign

PACKED = ("U8", "I8")
"""Dtypes in which packed FP4 codes may be stored: one byte per two codes."""
METADATA_KEYS = ("_quantization_metadata", "quantization_config")
"""Keys of a safetensors header that declare a quantization, in the order in which they are read."""


class Entry(Protocol):
    """Header entry of one tensor."""

    @property
    def dtype(self) -> str:
        """Return safetensors' name of the dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape as stored."""

    @property
    def file(self) -> str:
        """Return the file that holds the tensor."""


@dataclass(frozen=True)
class Declared:
    """Declarations of one transformer, and the headers of its tensors."""

    role: Literal["model", "override"]
    config: Any
    """``quantization_config`` of its ``config.json``; ``None``: the key is absent."""
    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Header metadata."""
    class_name: str = "WanTransformer3DModel"


@dataclass(frozen=True)
class Switch:
    """A decision of the runtime, and the rule that made it."""

    on: bool = False
    why: str = "default, because the config is silent"


@dataclass(frozen=True)
class Prediction:
    """Predicted result of loading: refusal, or method and readings per module."""

    refused: str = ""
    """Why the runtime refuses the checkpoint; empty: it loads."""
    refused_code: str = ""
    """``name_unmapped``, ``scale_shape``, or ``runtime_refuses`` for any other reason."""
    method: Literal["", "nvfp4", "fp8", "fp8_generic"] = ""
    """Loading method of quantized Linears; empty: plain floats."""
    swap: Switch = field(default_factory=Switch)
    tiled: Switch = field(default_factory=Switch)
    quantized: frozenset[str] = frozenset()
    """Modules, by the checkpoint's names, that run quantized."""
    scale_of_one: frozenset[str] = frozenset()
    """Modules whose stored codes are multiplied by 1 because a scale is absent."""
    input_scale_of_one: frozenset[str] = frozenset()
    """Quantized modules whose activations are divided by 1 because no input scale is stored."""
    unmodelled: str = ""
    """Part of the declaration that no rule of the contract covers; empty: all is covered."""


@dataclass(frozen=True)
class _Config:
    """A quantization config as the runtime holds it after parsing."""

    method: Literal["nvfp4", "fp8", "fp8_generic"]
    swap: Switch = field(default_factory=Switch)
    tiled: Switch = field(default_factory=Switch)
    ignore: tuple[str, ...] = ()
    families: frozenset[str] | None = None
    """Modules that the tensors show to be NVFP4; ``None``: the ignore list decides."""


class _Refused(Exception):  # noqa: N818 - carries the runtime's reason, caught in predict
    def __init__(self, reason: str, code: str = "runtime_refuses") -> None:
        self.code = code
        super().__init__(reason)


class _Unmodelled(Exception):  # noqa: N818 - a declaration that no rule covers
    pass


def predict(rules: Rules, declared: Declared) -> Prediction:
    """Return how the runtime will load the transformer.

    Args:
        rules: rules of one range of versions.
        declared: one transformer's declarations and headers.
    """
    try:
        config = _model_config(rules, declared) if declared.role == "model" else _override_config(rules, declared)
        return _loaded(rules, declared, config)
    except _Refused as reason:
        return Prediction(refused=str(reason), refused_code=reason.code)
    except _Unmodelled as reason:
        return Prediction(unmodelled=str(reason))


def _model_config(rules: Rules, declared: Declared) -> _Config | None:
    existing = _parse(rules, declared.config) if declared.config is not None else None
    # only a declaration of NVFP4 is completed from the tensors
    if existing is not None and existing.method != "nvfp4":
        return existing
    return _merge(rules, existing, _inferred(rules, declared, grouped=existing is not None))


def _override_config(rules: Rules, declared: Declared) -> _Config | None:
    inferred = _inferred(rules, declared, grouped=False)
    if rules.override.join == "first":
        for source in rules.override.reads:
            if source == "tensors" and inferred is not None:
                return inferred
            if source == "config" and declared.config is not None:
                return _parse(rules, declared.config)
            if source == "metadata":
                config_found = _from_metadata(rules, declared.metadata, strict=False)
                if config_found is not None:
                    return config_found
        return inferred
    declaration = _joined_declaration(rules, declared)
    existing: _Config | None = None
    if declaration is not None and "quant_method" in declaration:
        existing = _parse(rules, declaration)
    elif "metadata" in rules.override.reads:
        existing = _from_metadata(rules, declared.metadata, strict=True)
    if existing is not None and existing.method != "nvfp4":
        return existing
    inferred = _inferred(rules, declared, grouped=existing is not None)
    if (
        declaration is None
        and existing is None
        and inferred is None
        and rules.override.undeclared_fp8 == "refused"
        and _shows_quantized(declared)
    ):
        raise _Refused("the override holds quantized tensors and declares no quantization that it supports")
    return _merge(rules, existing, inferred)


def _joined_declaration(rules: Rules, declared: Declared) -> dict[str, Any] | None:
    """Return the declarations of an override's ``config.json`` and header as one; ``None`` if nothing declares.

    A key that both state must have the same value in both, and header metadata must be JSON objects. Raises
    ``_Refused`` otherwise.
    """
    joined: dict[str, Any] | None = None
    if "config" in rules.override.reads and declared.config:  # an empty declaration declares nothing
        if not isinstance(declared.config, Mapping):
            raise _Refused("quantization_config is not an object")
        joined = dict(declared.config)
    for key in METADATA_KEYS if "metadata" in rules.override.reads else ():
        if key not in declared.metadata:
            continue
        try:
            body = parse_foreign(declared.metadata[key], key)
        except UnreadableError:
            body = None
        if not isinstance(body, Mapping):
            raise _Refused(f"the header's {key} is no JSON object")
        joined = _join(joined or {}, body)
    return joined


def _join(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    joined = dict(first)
    for key, value in second.items():
        before = joined.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            joined[key] = _join(before, value)
        elif key in joined and before != value:
            raise _Refused(f"config.json and the header state different values of {key}")
        else:
            joined[key] = value
    return joined


def _shows_quantized(declared: Declared) -> bool:
    return any(
        name.endswith((".weight_scale", ".input_scale", ".comfy_quant"))
        or (name.endswith(".weight") and entry.dtype in ("F8_E4M3", "I8", "U8"))
        for name, entry in declared.tensors.items()
    )


def _from_metadata(rules: Rules, metadata: Mapping[str, str], *, strict: bool) -> _Config | None:
    """Return the declaration in a header, or ``None``.

    Args:
        strict: whether a refused declaration stops the load. Versions before declarations were merged skip it.
    """
    for key in METADATA_KEYS:
        if not metadata.get(key):
            continue
        try:
            body = parse_foreign(metadata[key], key)
        except UnreadableError:
            continue
        if not isinstance(body, Mapping):
            continue
        body = dict(body)
        layers = body.get("layers")
        if "quant_method" not in body and "format_version" in body and isinstance(layers, Mapping):
            formats = [item.get("format", "") for item in layers.values() if isinstance(item, Mapping)]
            if not any("float8" in str(item) for item in formats):
                return None
            body |= {"quant_method": "fp8", "activation_scheme": "dynamic"}
        if not body.get("quant_method"):
            return None
        try:
            return _parse(rules, body)
        except _Refused:
            if strict:
                raise
            return None
    return None


def _parse(rules: Rules, body: Any) -> _Config:
    """Parse a declaration as the runtime does. Raises ``_Refused`` with the runtime's reason."""
    if not isinstance(body, Mapping):
        raise _Refused("quantization_config is not an object")
    word = body.get("quant_method")
    if not word:
        raise _Refused("quantization_config names no quant_method")
    method = rules.dispatch.methods.get(str(word))
    if method is None:
        raise _Refused(f"it has no quantization method {word!r}")
    if method == "other":
        raise _Unmodelled(f"quant_method {word!r}")
    nested = body.get("quantization")
    section: Mapping[str, Any] = nested if isinstance(nested, Mapping) else {}
    text = body.get("quant_algo") or section.get("quant_algo") or ""
    if method == "by_algorithm":
        method = _by_algorithm(rules, str(text))
    if method == "nvfp4":
        return _nvfp4(rules, body, section)
    if method == "fp8":
        flat = body.get("quant_algo") is not None
        if "FP8" not in str(text):
            raise _Refused(f"its FP8 loader does not take quant_algo {text!r}")
        ignore = body.get("ignore") if flat else section.get("exclude_modules")
        return _Config("fp8", ignore=_patterns(ignore or ()))
    if "activation_scheme" not in body:
        raise _Refused("quant_method fp8 needs an activation_scheme")
    if body.get("weight_block_size"):
        raise _Unmodelled("weight_block_size of quant_method fp8: the versions refuse it without AMX or a GPU")
    ignore = body.get("ignored_layers") or body.get("modules_to_not_convert") or ()
    return _Config("fp8_generic", ignore=tuple(map(str, ignore)))


def _patterns(ignore: Any) -> tuple[str, ...]:
    """Return the ignore list as the runtime iterates over it: a text counts as a list of its characters."""
    patterns = tuple(ignore)
    if any(not isinstance(item, str) for item in patterns):
        raise _Refused("the list of ignored modules holds an entry that is no text")
    return patterns


def _by_algorithm(rules: Rules, text: str) -> Literal["nvfp4", "fp8"]:
    upper = text.upper()
    if upper == "MIXED_PRECISION":
        raise _Refused("mixed precision is not supported")
    if any(fnmatch.fnmatchcase(upper, glob) for glob in rules.dispatch.fp8):
        return "fp8"
    if any(fnmatch.fnmatchcase(upper, glob) for glob in rules.dispatch.nvfp4):
        return "nvfp4"
    raise _Refused(f"quant_algo {text!r} is not supported")


def _nvfp4(rules: Rules, body: Mapping[str, Any], section: Mapping[str, Any]) -> _Config:
    flat = body.get("quant_algo") is not None
    algorithm = body.get("quant_algo") if flat else section.get("quant_algo")
    if algorithm not in rules.nvfp4.algorithms:
        raise _Refused(
            f"quant_algo is {algorithm!r}, and only {', '.join(rules.nvfp4.algorithms)} is taken, letter for letter"
        )
    ignore = body.get("ignore", []) if flat else section.get("exclude_modules", [])
    group = _flat_group_size(body) if flat else _nested_group_size(body, section)
    if group is None or ignore is None:
        raise _Refused("the NVFP4 declaration lacks group_size or the list of ignored modules")
    swap = _switch(rules.nvfp4.swap_weight_nibbles, body, section, flat)
    tiled = _switch(rules.nvfp4.swizzled_scales, body, section, flat)
    return _Config("nvfp4", swap, tiled, _patterns(ignore))


def _flat_group_size(body: Mapping[str, Any]) -> Any:
    if body.get("group_size") is not None:
        return body["group_size"]
    groups = body.get("config_groups")
    first: Any = next(iter(groups.values()), {}) if isinstance(groups, Mapping) else {}
    weights = first.get("weights", {}) if isinstance(first, Mapping) else {}
    return weights.get("group_size") if isinstance(weights, Mapping) else None


def _nested_group_size(body: Mapping[str, Any], section: Mapping[str, Any]) -> Any:
    places = [body.get("group_size"), section.get("group_size")]
    groups = body.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        if isinstance(group, Mapping):
            places += [group.get("group_size")]
            places += [item.get("group_size") for item in group.values() if isinstance(item, Mapping)]
    sizes = {item for item in places if isinstance(item, int) and not isinstance(item, bool)}
    return next(iter(sizes)) if len(sizes) == 1 else None


def _switch(rule: SwitchRule, body: Mapping[str, Any], section: Mapping[str, Any], flat: bool) -> Switch:
    """Decide a switch by its key, if that is in a place read for this form of declaration.

    Otherwise a key that implies it decides, else the default.
    """
    if rule.config_key is None:
        return Switch(rule.default, "always")
    holders = {"top": body, "section": section}
    for place in rule.flat if flat else rule.nested:
        if rule.config_key in holders[place]:
            value = holders[place][rule.config_key]
            on = value == rule.word if rule.word is not None else bool(value)
            return Switch(on, f"config: {rule.config_key}: {json.dumps(value)}")
    if rule.implied_by is not None and rule.implied_by in body:
        value = body[rule.implied_by]
        return Switch(bool(value), f"config: {rule.implied_by}: {json.dumps(value)} implies it")
    elsewhere = [place for place in holders if rule.config_key in holders[place]]
    why = f", and {rule.config_key} is not read where it stands" if elsewhere else ""
    return Switch(rule.default, f"default, because the config is silent{why}")


def signals(tensors: Mapping[str, Entry]) -> set[Signal]:
    """Return the signals that tensor names show: ``packed_qkv`` and ``comfy_quant``."""
    signatures: set[Signal] = set()
    for name in tensors:
        if PACKED_QKV.match(name):
            signatures.add("packed_qkv")
        if name.endswith(".comfy_quant"):
            signatures.add("comfy_quant")
    return signatures


def _families(rules: Rules, tensors: Mapping[str, Entry]) -> frozenset[str]:
    """Return the modules whose tensors the runtime takes for NVFP4."""
    modules: set[str] = set()
    for name, scale in tensors.items():
        if not name.endswith(".weight_scale"):
            continue
        stem = name[: -len(".weight_scale")]
        weight = tensors.get(f"{stem}.weight")
        # the runtime examines each file alone: it misses a pair that is split over two files
        if weight is None or weight.file != scale.file:
            continue
        if rules.nvfp4.families == "weight_and_scale" or (
            weight.dtype == "U8" and scale.dtype.startswith("F8_E4M3") and len(scale.shape) >= 2
        ):
            modules.add(stem)
    return frozenset(modules)


def _inferred(rules: Rules, declared: Declared, *, grouped: bool) -> _Config | None:
    """Infer a configuration from the tensors and the header's ``_quantization_metadata``; ``None`` if they show none.

    Args:
        grouped: whether a declaration states the group size. If not, a tensor pair must show it.
    """
    families = _families(rules, declared.tensors)
    layers, signalled = _signalled(declared.metadata)
    if not (families or layers or signalled) or not (families or grouped):
        return None
    families |= layers
    seen = signals(declared.tensors)

    def by_tensors(rule: SwitchRule) -> Switch:
        reasons = sorted(seen & set(rule.inferred_from))
        return Switch(True, f"inferred from {', '.join(reasons)}") if reasons else Switch(rule.default)

    swap, tiled = by_tensors(rules.nvfp4.swap_weight_nibbles), by_tensors(rules.nvfp4.swizzled_scales)
    return _Config("nvfp4", swap, tiled, families=families)


def _signalled(metadata: Mapping[str, str]) -> tuple[frozenset[str], bool]:
    """Return the layers that ``_quantization_metadata`` calls nvfp4, and whether it names an FP4 algorithm."""
    try:
        body = parse_foreign(metadata.get("_quantization_metadata", ""), "_quantization_metadata")
    except UnreadableError:
        return frozenset(), False
    if not isinstance(body, Mapping):
        return frozenset(), False
    signalled = "FP4" in str(body.get("quant_algo", "")).upper() or "NVFP4" in str(body.get("quant_type", "")).upper()
    layers = body.get("layers") if "format_version" in body else None
    named = layers.items() if isinstance(layers, Mapping) else ()
    return frozenset(
        layer for layer, item in named if isinstance(item, Mapping) and item.get("format") == "nvfp4"
    ), signalled


def _merge(rules: Rules, existing: _Config | None, inferred: _Config | None) -> _Config | None:
    if existing is None or inferred is None:
        return existing or inferred
    if existing.method != "nvfp4":
        return existing

    def joined(rule: SwitchRule, config: Switch, tensors: Switch) -> Switch:
        if rule.merge == "config" or not tensors.on or rule.default:
            return config
        overruled = f", which overrules {config.why}" if config.why.startswith("config:") and not config.on else ""
        return Switch(True, f"{tensors.why}{overruled}")

    swap = joined(rules.nvfp4.swap_weight_nibbles, existing.swap, inferred.swap)
    tiled = joined(rules.nvfp4.swizzled_scales, existing.tiled, inferred.tiled)
    return _Config("nvfp4", swap, tiled, existing.ignore, inferred.families)


def linears(names: Names, tensors: Mapping[str, Entry]) -> dict[str, str]:
    """Return the modules that the runtime can quantize: the checkpoint's name to the runtime's."""
    linear_names: dict[str, str] = {}
    for name, entry in tensors.items():
        if name.endswith(".weight") and len(entry.shape) == 2:
            module = runtime_name(names, name)[: -len(".weight")]
            if any(re.fullmatch(pattern, module) for pattern in names.linears):
                linear_names[name[: -len(".weight")]] = module
    return linear_names


def runtime_name(names: Names, tensor: str) -> str:
    """Return the runtime's name of a tensor; the first pattern that matches decides."""
    for pattern, target in names.rename.items():
        match = _compiled(pattern).match(tensor)
        if match is not None:
            return match.expand(target)
    return tensor


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def ignored(patterns: tuple[str, ...], module: str) -> bool:
    """Return whether a list of ignored modules covers a runtime's module.

    Patterns match the whole name. Only ``*`` is special: ``?`` and ``[`` match themselves, as in the runtime.
    """
    return any(re.fullmatch(re.escape(item).replace(r"\*", ".*"), module) for item in patterns)


def _loaded(rules: Rules, declared: Declared, config: _Config | None) -> Prediction:
    names = rules.names.get(declared.class_name)
    if names is None:
        raise _Unmodelled(f"the names of {declared.class_name}")
    _complete(names, declared.tensors)
    modules = linears(names, declared.tensors)
    if config is None:
        chosen: frozenset[str] = frozenset()
    elif config.families is not None:
        chosen = config.families & frozenset(modules)
    elif config.method == "fp8_generic":
        chosen = frozenset(name for name, module in modules.items() if module not in config.ignore)
    else:
        chosen = frozenset(name for name, module in modules.items() if not ignored(config.ignore, module))
    method = config.method if config is not None else ""
    _fits(rules, declared, modules, chosen, method)
    return Prediction(
        method=method,
        swap=config.swap if config is not None else Switch(),
        tiled=config.tiled if config is not None else Switch(),
        quantized=chosen,
        scale_of_one=frozenset(
            name for name in modules if _lacks_scale(declared, name, method if name in chosen else "")
        ),
        input_scale_of_one=frozenset(
            name for name in chosen if method != "fp8_generic" and f"{name}.input_scale" not in declared.tensors
        ),
    )


def _complete(names: Names, tensors: Mapping[str, Entry]) -> None:
    """Refuse a checkpoint without a tensor that the runtime cannot fill in. Raises ``_Refused``.

    Tensors of unknown names are no reason: without FSDP the runtime skips them.
    """
    blocks = {int(match.group(1)) for name in tensors if (match := BLOCK.match(name))}
    for name in names.required:
        for block in range(max(blocks, default=-1) + 1) if "{block}" in name else (0,):
            required = name.replace("{block}", str(block))
            if required not in tensors:
                raise _Refused(f"it finds no tensor {required}", "name_unmapped")


BLOCK = re.compile(r"blocks\.(\d+)\.")


def _lacks_scale(declared: Declared, name: str, method: str) -> bool:
    if declared.tensors[f"{name}.weight"].dtype in ("BF16", "F16", "F32"):
        return False  # cast to FP8 with a scale of 1 on purpose: the values stay right
    required = ("weight_scale_2", "weight_scale") if method == "nvfp4" else ("weight_scale",)
    return any(f"{name}.{suffix}" not in declared.tensors for suffix in required)


def _fits(rules: Rules, declared: Declared, modules: Mapping[str, str], chosen: frozenset[str], method: str) -> None:
    """Refuse tensors that do not fit the runtime's parameters by dtype or shape. Raises ``_Refused``."""
    for name in sorted(modules):
        weight = declared.tensors[f"{name}.weight"]
        if name not in chosen or method != "nvfp4":
            if weight.dtype in PACKED:
                raise _Refused(f"{name} is stored as packed codes, and the runtime prepares room for a full weight")
        elif weight.dtype not in PACKED:
            raise _Refused(f"{name} is stored as {weight.dtype}, and the runtime prepares room for packed codes")
        scale = declared.tensors.get(f"{name}.weight_scale")
        if (
            name not in chosen
            and scale is not None
            and scale_kind(scale.shape) == "channel"
            and weight.dtype == "F8_E4M3"
        ):
            raise _Refused(
                f"{name} has one FP8 scale per row, and it unpacks unquantized FP8 with one scale", "scale_shape"
            )
        if (
            name in chosen
            and method == "fp8"
            and scale is not None
            and scale_kind(scale.shape) not in rules.fp8.scale_shapes
        ):
            raise _Refused(
                f"{name} has FP8 scales of shape {list(scale.shape)}, and it takes {', '.join(rules.fp8.scale_shapes)}",
                "scale_shape",
            )


def scale_kind(shape: tuple[int, ...]) -> str:
    """Return ``scalar`` for ``[]``, ``one`` for ``[1]``, ``channel`` for ``[N]``, ``channel_column`` for ``[N, 1]``."""
    if not shape:
        return "scalar"
    if len(shape) == 1:
        return "one" if shape[0] == 1 else "channel"
    return "channel_column"
