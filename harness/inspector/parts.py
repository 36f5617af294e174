"""Check the components beside the transformers: present, JSON valid, safetensors files whole.

The checks are cheap, and the same for a folder and the hub: headers, indexes and small JSON files are read, no weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from harness.formats.errors import HeaderError
from harness.formats.file_types import SNIFF, sniff
from harness.formats.header import TensorEntry, read_header
from harness.inspector.findings import finding
from harness.inspector.sources import Source
from harness.reading import UnreadableError, parse_foreign, reason
from harness.records.inspection import InspectionFinding
from harness.text import listed

EXPERTS = ("transformer", "transformer_2")
WHOLE = ("vae", "text_encoder", "tokenizer", "scheduler")
"""Folders that mark a whole pipeline if any is present; an export of transformers alone has none."""
WITHOUT_WEIGHTS = ("Tokenizer", "Scheduler", "Processor", "FeatureExtractor")
"""Parts of class names whose components are configuration only."""
MAX_JSON = 64 * 1024 * 1024
MAX_HUB_JSON = 1024 * 1024
"""Limit on the hub: a tokenizer of 16 MB is not fetched only to parse it; ``not_done`` lists it."""
INDEX = ".safetensors.index.json"
PART = re.compile(r"-\d+-of-\d+\.safetensors$")


@dataclass(frozen=True)
class PartFiles:
    """Data read of one component."""

    tensors: Mapping[str, TensorEntry] = field(default_factory=dict)
    json: Mapping[str, Any] = field(default_factory=dict)
    """JSON files by their name inside the component's folder."""
    vocabulary: int = 0
    """Pieces of a tokenizer; 0 if they could not be counted."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Return ``config.json``, or a scheduler's or tokenizer's own file; empty if absent or no object."""
        names = ("config.json", "scheduler_config.json", "tokenizer_config.json")
        body: Any = next((self.json[name] for name in names if name in self.json), {})
        return body if isinstance(body, Mapping) else {}


@dataclass(frozen=True)
class Parts:
    """Findings on all components, with lists of work done and not done."""

    findings: tuple[InspectionFinding, ...] = ()
    done: tuple[str, ...] = ()
    not_done: tuple[str, ...] = ()
    files: Mapping[str, PartFiles] = field(default_factory=dict)
    """Component to the data read of it."""


def look_at_parts(source: Source, index: Mapping[str, Any] | None, pool: Executor) -> Parts:
    """Compare the files of a checkpoint with the components that its ``model_index.json`` names.

    Args:
        source: the checkpoint.
        index: its ``model_index.json``; ``None`` if absent or broken.
        pool: runs the reads.

    Raises:
        SourceError: the source failed.
    """
    whole = [name for name in WHOLE if _files(source, name)]
    if index is None:
        return _unnamed(source, whole)
    named = {name: str(entry[1]) for name, entry in index.items() if _is_component(name, entry)}
    if not whole:
        alone = f"{', '.join(named)}: model_index.json names them, and only transformers are here"
        return Parts(not_done=(alone,) if named else ())
    looks = list(pool.map(lambda item: _Look(source, *item).run(), named.items()))
    findings = [finding for look in looks for finding in look.findings]
    checked = [f"{', '.join(named)}: there, JSON and safetensors headers whole"] if named and not findings else []
    weights = [look.name for look in looks if look.shards]
    unread = [f"{', '.join(weights)}: headers and sizes only, no weight was read"] if weights else []
    files = {look.name: PartFiles(look.tensors, look.bodies, look.vocabulary) for look in looks if look.files}
    return Parts(tuple(findings), tuple(checked), (*unread, *(line for look in looks for line in look.unread)), files)


def _unnamed(source: Source, whole: list[str]) -> Parts:
    if "model_index.json" in source.files:  # broken, which is a finding already
        return Parts(not_done=(f"{', '.join(whole)}: model_index.json does not name their kind",) if whole else ())
    if not whole or not any(_files(source, expert) for expert in EXPERTS):
        return Parts()
    text = f"model_index.json is absent, and {', '.join(whole)} beside the transformers make a pipeline of this."
    return Parts(
        (finding("fault", "component_missing", text, evidence={"file": "model_index.json"}),),
        not_done=(f"{', '.join(whole)}: without model_index.json their kind is unknown",),
    )


def _is_component(name: str, entry: Any) -> bool:
    return name not in EXPERTS and isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def _files(source: Source, name: str) -> list[str]:
    return sorted(path for path in source.files if path.startswith(f"{name}/"))


def _pieces(body: Any) -> int:
    """Return the number of pieces of a ``tokenizer.json``: largest id plus one, or the list's length.

    0 if the file has another layout.
    """
    model = body.get("model") if isinstance(body, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):
        return len(vocabulary)
    if isinstance(vocabulary, dict):
        return max((item for item in vocabulary.values() if isinstance(item, int)), default=-1) + 1
    return 0


class _Look:
    """Checks of one component, with the data that they read."""

    def __init__(self, source: Source, name: str, kind: str) -> None:
        self.source, self.name, self.kind = source, name, kind
        self.files = _files(source, name)
        self.shards = [path for path in self.files if path.endswith(".safetensors")]
        self.findings: list[InspectionFinding] = []
        self.unread: list[str] = []
        self.tensors: dict[str, TensorEntry] = {}
        self.bodies: dict[str, Any] = {}
        self.vocabulary = 0

    def run(self) -> _Look:
        self.findings += self._missing() if not self.files else self._broken()
        return self

    def _missing(self) -> Iterator[InspectionFinding]:
        yield self._finding("missing", f"{self.name}: model_index.json names it, and it is not there.")

    def _broken(self) -> Iterator[InspectionFinding]:
        for path in self.files:
            if path.endswith(".json"):
                yield from self._json(path)
        for path in self.shards:
            yield from self._header(path)
        if any(mark in self.kind for mark in WITHOUT_WEIGHTS):
            yield from self._without_weights()
        else:
            yield from self._with_weights()
        other = [path for path in self.files if not path.endswith((".json", ".safetensors"))]
        if other:
            self.unread.append(f"{listed(other)}: not looked at, no JSON and no safetensors")

    def _without_weights(self) -> Iterator[InspectionFinding]:
        expected = {"Scheduler": "scheduler_config.json", "Tokenizer": "tokenizer_config.json"}
        for mark, file in expected.items():
            if mark in self.kind and f"{self.name}/{file}" not in self.files:
                yield self._finding("missing", f"{self.name}/{file} is not there.", file)

    def _with_weights(self) -> Iterator[InspectionFinding]:
        if f"{self.name}/config.json" not in self.files:
            yield self._finding("missing", f"{self.name}/config.json is not there.", "config.json")
        if not self.shards and not any(path.endswith((".bin", INDEX)) for path in self.files):
            yield self._finding("missing", f"{self.name}: there are no weights of it.")
        if any(PART.search(path) for path in self.shards) and not any(path.endswith(INDEX) for path in self.files):
            yield self._finding("missing", f"{self.name} is stored in parts, and there is no index of them.")

    def _json(self, path: str) -> Iterator[InspectionFinding]:
        size = self.source.files[path].size
        if size > (MAX_JSON if self.source.is_local else MAX_HUB_JSON):
            self.unread.append(f"{path}: {size} bytes were not read")
            return
        try:
            body = parse_foreign(self.source.read(path, 0, size), path)
        except UnreadableError as error:
            yield self._finding("broken", f"{path} is not JSON ({reason(error)}).", path)
            return
        self.bodies[path.removeprefix(f"{self.name}/")] = body
        if path.endswith("/tokenizer.json"):
            self.vocabulary = _pieces(body)
        if path.endswith(INDEX):
            yield from self._index(path, body)

    def _index(self, path: str, body: Any) -> Iterator[InspectionFinding]:
        placed = body.get("weight_map") if isinstance(body, dict) else None
        if not isinstance(placed, dict) or not all(isinstance(file, str) for file in placed.values()):
            yield self._finding("broken", f"{path}: weight_map is not a map of names.", path)
            return
        lost = sorted({file for file in placed.values() if f"{self.name}/{file}" not in self.files})
        if lost:
            yield self._finding("missing", f"{path} names {listed(lost)}, and there is no such file.", path)

    def _header(self, path: str) -> Iterator[InspectionFinding]:
        size = self.source.files[path].size
        try:
            header = read_header(path, size, lambda start, length: self.source.read(path, start, length))
        except HeaderError as error:
            other = sniff(self.source.read(path, 0, min(size, SNIFF)))
            yield self._finding("broken", f"{path} is {other.text}." if other else f"{path}: {error.message}.", path)
            return
        self.tensors.update(header.tensors)

    def _finding(self, fault: str, text: str, file: str = "") -> InspectionFinding:
        return finding("fault", f"component_{fault}", text, evidence={"component": self.name, "file": file})
