"""Content digests of a run's components. Reuses the digests in goldens, so that equal files are not read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import GoldenError
from harness.goldens.golden import Golden
from harness.inspector.content import components_of, contents_of
from harness.reading import UnreadableError
from harness.records.contents import (
    CONTENTS,
    CONTENTS_FILE,
    ComponentContent,
    ContentChange,
    WeightContents,
    content_change,
)
from harness.records.identity import Identity, component_of, files_of


class Contents:
    """The contents of one checkpoint, computed on demand and at most once.

    Args:
        paths: folder by role, as the engine gets them.
        files: sha256 of each file that the engine loads, by ``component/file``.
    """

    def __init__(self, paths: Mapping[str, Path], files: Mapping[str, str]) -> None:
        self._paths, self._files = dict(paths), dict(files)
        self._by_name: dict[str, ComponentContent] = {}

    def weights(self, accepted: Iterable[Identity] = ()) -> dict[str, str]:
        """Return the rows for the weights of an identity: one content digest per component.

        A component whose files equal those of an accepted identity gets that identity's digest, and is not read.

        Args:
            accepted: identities of the accepted goldens.

        Raises:
            QuantgateError: a file cannot be read.
        """
        groups: dict[str, dict[str, str]] = {}
        for file, digest in self._files.items():
            groups.setdefault(component_of(file), {})[file] = digest
        rows: dict[str, str] = {}
        unknown: list[str] = []
        identities = list(accepted)
        for component, files in sorted(groups.items()):
            same = (item.weights for item in identities if files_of(item).get(component) == files)
            content_digest = next((str(weights[component]) for weights in same if component in weights), None)
            if content_digest is not None:
                rows[component] = content_digest
            else:
                unknown.append(component)
        for component in unknown:
            content = self.component(component)
            # without a readable tensor or document there is no content digest, so fall back to the file digests
            rows |= {component: content.digest()} if _holds(content) else groups[component]
        return rows

    def adopt(self, goldens: Iterable[Golden]) -> None:
        """Reuse the contents stored in goldens for components with equal files, so that they need not be read.

        Raises:
            GoldenError: a golden's contents are damaged.
        """
        for golden in goldens:
            files = files_of(golden.manifest.identity)
            stored = contents_part(golden)
            for name, content in stored.components.items() if stored is not None else ():
                if files.get(name) == {
                    file: digest for file, digest in self._files.items() if component_of(file) == name
                }:
                    self._by_name.setdefault(name, content)

    def component(self, name: str) -> ComponentContent:
        """Return the content of one component; an empty content if the checkpoint has no such component."""
        if name not in self._by_name:
            wanted = [item for item in components_of(self._paths) if item.name == name]
            self._by_name |= contents_of(wanted).components
        return self._by_name.setdefault(name, ComponentContent())

    def complete(self) -> WeightContents:
        """Return the content of every component of the run. Raises ``QuantgateError`` if a file cannot be read."""
        missing = [item for item in components_of(self._paths) if item.name not in self._by_name]
        self._by_name |= contents_of(missing).components
        return WeightContents(
            components={name: content for name, content in sorted(self._by_name.items()) if _holds(content)}
        )

    def write(self, folder: Path) -> Path:
        """Write ``contents.json`` into a run's folder, for the golden that the run may become."""
        return self.complete().write(folder / CONTENTS_FILE)

    def changes(self, golden: Golden, run: Identity) -> tuple[ContentChange, ...]:
        """Return the tensors and documents that differ between the run and the golden, by component.

        For a component whose contents the golden does not hold, the names of the files that differ are returned.

        Raises:
            GoldenError: the golden's contents are damaged.
        """
        run_weights, golden_weights = run.weights, golden.manifest.identity.weights
        names = {component_of(field) for field in (*run_weights, *golden_weights)}
        stored = contents_part(golden)
        changes: list[ContentChange] = []
        # the case declares the quantization rows; no component of the checkpoint holds them
        for name in sorted(name for name in names if not name.startswith("quantization.")):
            if run_weights.get(name) == golden_weights.get(name) and name in run_weights:
                continue
            if stored is not None and name in stored.components:
                change = content_change(name, stored.components[name], self.component(name))
            else:
                change = _file_change(name, golden.manifest.identity, run)
            if change is not None:
                changes.append(change)
        return tuple(changes)


def contents_part(golden: Golden) -> WeightContents | None:
    """Return the contents that a golden holds, or ``None`` if it was accepted without them.

    Raises:
        GoldenError: the contents are damaged.
    """
    if CONTENTS not in golden.manifest.parts:
        return None
    path = golden.open_part(CONTENTS)
    try:
        return WeightContents.read(path)
    except UnreadableError as error:
        raise GoldenError(f"the golden's contents cannot be read: {error.message}", place=error.place) from error


def _holds(content: ComponentContent) -> bool:
    return bool(content.tensors or content.documents)


def _file_change(name: str, golden: Identity, run: Identity) -> ContentChange | None:
    before, after = files_of(golden).get(name, {}), files_of(run).get(name, {})
    files = tuple(file for file in sorted(before.keys() | after.keys()) if before.get(file) != after.get(file))
    return ContentChange(name, documents=files) if files else None
