"""The content of a checkpoint's components, independent of its storage.

Two checkpoints with the same content give the same video. Sharding, order of tensors, file names, header metadata,
index files and the formatting of JSON are storage, and are no part of the content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.records.base import Record
from harness.text import listed

CONTENTS = "contents"
"""Name of the golden's part that holds this record."""
CONTENTS_FILE = "contents.json"
_SHOWN = 2


class ComponentContent(Record):
    """One component: ``transformer``, ``vae``, ``text_encoder``, ``tokenizer``, ``scheduler``, ``model_index``, ..."""

    tensors: dict[str, str] = {}
    """Tensor name to ``DTYPE[shape] digest``, such as ``BF16[96,384] 0f3c...``; the digest is the first 32 hex digits
    of the sha256 of the tensor's bytes."""
    documents: dict[str, str] = {}
    """Name of each file without tensors to its digest: JSON by its values, anything else by its bytes."""

    def digest(self) -> str:
        """Return the component's identity: sha256 (hex) over all tensors and documents, sorted by name."""
        text = json.dumps([self.tensors, self.documents], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


class WeightContents(Record):
    """``contents.json`` of a golden: the content of every component that its engine loaded."""

    schema_version: Literal[1] = 1
    components: dict[str, ComponentContent]

    def digests(self) -> dict[str, str]:
        """Return the identity of each component, by its name."""
        return {name: component.digest() for name, component in sorted(self.components.items())}


@dataclass(frozen=True)
class ContentChange:
    """The difference of one component between a run and its golden.

    Attributes:
        component: its name.
        changed: names of tensors with other bytes, dtype or shape.
        added, removed: names of tensors that only the run, or only the golden, has.
        documents: names of files without tensors that differ, came or went.
        tensors: how many tensors the run's component has.
        example: the golden's and the run's value of the first changed tensor.
    """

    component: str
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    tensors: int = 0
    example: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        """Return a line such as ``text_encoder: 12 of 24 tensors changed (a.weight, b.weight and 10 more)``."""
        parts = []
        if self.changed:
            named = f"{_names(self.changed)}{self._kind()}"
            parts.append(f"{len(self.changed)} of {self.tensors} tensors changed ({named})")
        if self.added:
            parts.append(f"{len(self.added)} tensors added ({_names(self.added)})")
        if self.removed:
            parts.append(f"{len(self.removed)} tensors removed ({_names(self.removed)})")
        if self.documents:
            parts.append(f"{_names(self.documents)} changed")
        return f"{self.component}: {', '.join(parts) or 'changed'}"

    def _kind(self) -> str:
        """Return dtype and shape of the first changed tensor, golden and run, if they differ."""
        before, after = (value.rpartition(" ")[0] for value in self.example)
        return f"; {before} -> {after}" if before != after else ""


def content_change(component: str, golden: ComponentContent, run: ComponentContent) -> ContentChange | None:
    """Compare one component with the golden's. Return ``None`` if the content is equal."""
    if golden == run:
        return None
    changed = tuple(name for name, value in sorted(golden.tensors.items()) if run.tensors.get(name, value) != value)
    documents = golden.documents.keys() | run.documents.keys()
    return ContentChange(
        component,
        changed=changed,
        added=tuple(sorted(run.tensors.keys() - golden.tensors.keys())),
        removed=tuple(sorted(golden.tensors.keys() - run.tensors.keys())),
        documents=tuple(name for name in sorted(documents) if golden.documents.get(name) != run.documents.get(name)),
        tensors=len(run.tensors),
        example=(golden.tensors[changed[0]], run.tensors[changed[0]]) if changed else ("", ""),
    )


def _names(names: Iterable[str]) -> str:
    return listed(tuple(names), _SHOWN)
