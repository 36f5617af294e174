"""List the number formats: the built-in ones, and those of other distributions.

The table below registers the built-in formats in the form of an entry point, with the two facts that the loader of case
files needs. So it checks ``quantization:`` and ``loader:`` at every start of pytest without an import of numpy; a
format is imported when it is first used.

To add a format to the package, write its file in this folder and add one line to `BUILT_IN`. To add one from another
package, list its `Format` in the entry point group ``quantgate.formats``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final

from harness.errors import InvalidCaseError
from harness.formats.header import TensorEntry

if TYPE_CHECKING:
    from harness.formats.spec import Format

GROUP: Final = "quantgate.formats"
"""Entry point group: ``name = "package.module:VALUE"``, a `Format` of that name."""
FLOATS: Final = ("bf16", "fp16", "fp32")
"""Names of plain weights. No format may take one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A built-in format: where it is defined, and two of its members that are needed before it is imported."""

    value: str
    runs: bool = False
    loader_options: frozenset[str] = frozenset()


_FOUR_BITS: Final = frozenset({"nibble_order", "scale_layout"})
BUILT_IN: Final = {
    "nvfp4": Entry("harness.formats.nvfp4:NVFP4", runs=True, loader_options=_FOUR_BITS),
    "fp8": Entry("harness.formats.fp8:FP8", runs=True),
    "mxfp8": Entry("harness.formats.microscaling:MXFP8"),
    "mxfp4": Entry("harness.formats.microscaling:MXFP4"),
    "mxfp6": Entry("harness.formats.recognised:MXFP6"),
    "int8": Entry("harness.formats.int8:INT8"),
    "nf4": Entry("harness.formats.bitsandbytes:NF4"),
    "gguf": Entry("harness.formats.gguf:GGUF"),
    "int4": Entry("harness.formats.int4:INT4"),
    "unknown": Entry("harness.formats.recognised:UNKNOWN"),
}


@cache
def built_in_formats() -> dict[str, Format]:
    """Load the built-in formats, by name.

    Raises:
        TypeError: a line of `BUILT_IN` contradicts its format.
    """
    formats: dict[str, Format] = {}
    for name, entry in BUILT_IN.items():
        form: Format = EntryPoint(name, entry.value, GROUP).load()
        if (form.name, form.runs, form.loader_options) != (name, entry.runs, entry.loader_options):
            raise TypeError(f"{entry.value} is not as BUILT_IN lists it: {form.name}, runs: {form.runs}")
        formats[name] = form
    return formats


@cache
def _points() -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=GROUP), key=lambda point: point.name))


@cache
def registered_formats() -> tuple[Format, ...]:
    """Return the formats of installed distributions, by name.

    Raises:
        InvalidCaseError: an entry point cannot be loaded, is no `Format`, lacks a function, or its name is taken.
    """
    formats: list[Format] = []
    for point in _points():
        from harness.formats.spec import Format

        package = point.dist.name if point.dist else "an unknown package"
        label = f"format {point.name} of {package} ({point.value})"
        remedy = f"repair the entry point of {package} and install it again, or uninstall it"
        try:
            value = point.load()
        except Exception as error:  # any fault of a plugin's module, named with its package
            raise InvalidCaseError(f"{label} cannot be loaded: {error!r}", remedy=remedy) from error
        taken = {*BUILT_IN, *FLOATS, "mixed", *(form.name for form in formats)}
        if not isinstance(value, Format) or value.name != point.name or value.name in taken:
            raise InvalidCaseError(f"{label} is no Format of that name, or the name is taken", remedy=remedy)
        undecoded = value.decode is None and value.readings is None
        if value.recognise is None or (value.proof == "base" and undecoded):
            raise InvalidCaseError(f"{label} lacks recognise or decode; see harness.formats.spec.Format", remedy=remedy)
        formats.append(value)
    return tuple(formats)


def known_formats() -> dict[str, Format]:
    """Return the built-in and the registered formats, by name."""
    return built_in_formats() | {form.name: form for form in registered_formats()}


def title_of(name: str) -> str:
    """Return the format's name for people; a plain float format's is its dtype in capitals."""
    formats = known_formats()
    return formats[name].title if name in formats else name.upper()


def runnable_formats() -> tuple[str, ...]:
    """Return the names that ``quantization:`` of a case may have: bf16, and every format that the engine can run."""
    return ("bf16", *built_in_names(runs=True), *(form.name for form in registered_formats() if form.runs))


def built_in_names(*, runs: bool) -> list[str]:
    """Return the names of the built-in formats that the engine runs, or of those that it does not, sorted."""
    return sorted(name for name, entry in BUILT_IN.items() if entry.runs is runs)


def loader_options(name: str) -> frozenset[str]:
    """Return the fields of ``loader:`` that change how a format is read; none for plain floats and unknown names."""
    if name in BUILT_IN:
        return BUILT_IN[name].loader_options
    return next((form.loader_options for form in registered_formats() if form.name == name), frozenset())


def is_quantized(name: str) -> bool:
    """Return whether a name in records is that of a number format, and not of plain floats.

    A record may come from a machine with formats that this one does not have, so any name that is a word counts.
    """
    return name.isidentifier() and name not in (*FLOATS, "norm")


def recognised(
    weight: TensorEntry, parts: Mapping[str, TensorEntry], declared: Mapping[str, Any]
) -> tuple[Format, tuple[int, int]] | None:
    """Return the first registered format that recognises a weight, and its [N, K]; ``None`` if none does."""
    for form in registered_formats():
        shape = form.recognise(weight, parts, declared) if form.recognise is not None else None
        if shape is not None:
            return form, shape
    return None


def stored_format(
    weight: TensorEntry, parts: Mapping[str, TensorEntry], declared: Mapping[str, Any]
) -> tuple[Format, tuple[int, int]] | None:
    """Return the format in which the engine reads a weight, and its [N, K]; ``None`` if it is not quantized.

    Registered formats are asked first. The inspector looks closer (``harness.formats.modules.decide``): it also names
    formats that the engine cannot run.
    """
    registered = recognised(weight, parts, declared)
    if registered is not None:
        return registered
    for form in built_in_formats().values():
        if weight.dtype in form.weight_dtypes and len(weight.shape) == 2:
            return form, (weight.shape[0], weight.shape[1] * form.values_per_byte)
    return None
