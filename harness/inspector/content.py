"""Compute the content of a checkpoint's components (see ``harness.records.contents``).

Each tensor is read once: the digests of a file's tensors are cached under the file's own sha256, and that sha256 is
cached under the file's stamp (see ``harness.inspector.identity``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.formats.errors import SourceError
from harness.formats.header import TensorEntry
from harness.inspector.class_defaults import unread_keys
from harness.inspector.identity import DigestCache, cache_file, digest_files
from harness.inspector.index import load_component
from harness.inspector.layout import folders
from harness.inspector.parts import EXPERTS
from harness.inspector.pipeline_parts import OF_LAST_CALL, TIED
from harness.inspector.sources import LocalSource, Meter
from harness.reading import UnreadableError, parse_foreign, read_json
from harness.records.base import write_text_atomic
from harness.records.contents import ComponentContent, WeightContents

OTHER_PARTS = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler", "image_encoder")
"""Folders that a pipeline loads beside its transformers."""
MODEL_INDEX = "model_index"
OLDER_QUANTIZATION = "hf_quant_config.json"
TRANSFORMER = "WanTransformer3DModel"
UNREAD = frozenset({
    "architectures", "author", "comment", "comments", "created", "date", "description", "diffusers_version", "dtype",
    "license", "name_or_path", "notes", "special_tokens_map_file", "tags", "tokenizer_file", "torch_dtype",
    "transformers_version",
})  # fmt: skip
"""Keys of a configuration that change no computed value. The case states the dtypes (``precision``) and
``model_index.json`` the classes; the rest is documentation. An entry too many here hides no fault: if two identities
are equal, the pixels are still compared."""
KEPT_PRIVATE = frozenset({"_class_name"})
"""The only key with a leading underscore that is read; Diffusers and Transformers keep notes in the others."""
TABLES = frozenset({"vocab.json", "added_tokens.json", "special_tokens_map.json"})
"""JSON files whose top-level keys are tokens and not settings: no key of them is left out."""
WEIGHTS = (".gguf", ".bin", ".pt", ".pth")
READ = frozenset({
    "added_tokens.json", "config.json", "merges.txt", "preprocessor_config.json", "processor_config.json",
    "scheduler_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    "vocab.txt",
})  # fmt: skip
"""Files that loaders of Diffusers and Transformers read beside weights. One too few hides no fault: the pixels are
compared all the same."""
TOKENS = (".model", ".spm", ".tiktoken")
"""Endings of tables of tokens that SentencePiece and others write."""
SPECIAL_TOKENS = "special_tokens_map.json"
_MAX_JSON = 64 << 20
_BLOCK = 8 << 20
_DIGITS = 32
_TABLE = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class ComponentFiles:
    """Files and tensors of one component.

    Attributes:
        name: ``transformer``, ``vae``, ...
        source: the folder that its files are in.
        tensors: the tensors that a loader takes, by name.
        documents: path in ``source`` of every other file that counts, by its name in the component. A safetensors file
            whose header cannot be read counts by its bytes, as a document.
    """

    name: str
    source: LocalSource
    tensors: Mapping[str, TensorEntry]
    documents: Mapping[str, str]


def components_of(paths: Mapping[str, Path]) -> tuple[ComponentFiles, ...]:
    """Return every component of the checkpoints that an engine loads. Headers are read, tensors are not.

    Args:
        paths: folder by role: ``model``, and ``transformer`` or ``transformer_2`` for an override.

    Raises:
        SourceError: a file cannot be read.
    """
    model = LocalSource(paths["model"], Meter())
    places = {name: (model, folder) for name, folder in folders(model).items()}
    for expert in EXPERTS:
        if expert in paths:
            other = LocalSource(paths[expert], Meter())
            options = folders(other)
            places[expert] = (other, options.get(expert, options.get("transformer", "")))
    for name in OTHER_PARTS:
        if any(path.startswith(f"{name}/") for path in model.files):
            places[name] = (model, name)
    with ThreadPoolExecutor(8) as pool:
        components = [_files(name, source, folder, pool) for name, (source, folder) in sorted(places.items())]
    if "model_index.json" in model.files:
        components.append(ComponentFiles(MODEL_INDEX, model, {}, {"model_index.json": "model_index.json"}))
    return tuple(components)


def _files(name: str, source: LocalSource, folder: str, pool: ThreadPoolExecutor) -> ComponentFiles:
    component = load_component(source, folder, name, "model", pool)
    prefix = component.prefix
    unreadable = {str(item.evidence.get("file")) for item in component.findings if item.code in UNREADABLE}
    documents = {
        path.removeprefix(prefix) if path.startswith(prefix) else f"../{path}": path for path in component.configs
    }
    if component.config.get("quantization_config"):
        documents.pop(OLDER_QUANTIZATION, None)  # read only if config.json declares no quantization
    for path in source.files:
        inside = path.startswith(prefix) and (bool(folder) or "/" not in path)
        # without readable tensors the file's bytes are its content: a change must not go unnoticed
        if inside and (path in unreadable or _counts(path, name)):
            documents[path.removeprefix(prefix)] = path
    return ComponentFiles(name, source, component.stored, documents)


UNREADABLE = ("header_invalid", "lfs_pointer", "html_page", "pickle_file", "other_file")
"""Codes of findings for files without readable tensors: the digest of such a file's bytes is its content."""


def _counts(path: str, component: str) -> bool:
    """Return whether a file other than safetensors can change the output."""
    name = posixpath.basename(path).lower()
    # a folder may hold anything: hidden files, copies of an editor, logs
    return name.endswith(WEIGHTS) or (component not in EXPERTS and (name in READ or name.endswith(TOKENS)))


def other_files(files: Iterable[str]) -> list[str]:
    """Return the files of a checkpoint that a pipeline loads beside its transformers."""
    return [path for path in files if path == "model_index.json" or path.partition("/")[0] in OTHER_PARTS]


def contents_of(components: Iterable[ComponentFiles], cache: DigestCache | None = None) -> WeightContents:
    """Return the content of each component. Tensors that are not in the cache are read, several at a time.

    Raises:
        SourceError: a file cannot be read.
    """
    digest_cache = cache or DigestCache()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        contents = {item.name: _content(item, digest_cache, pool) for item in components}
    digest_cache.save()
    return WeightContents(components=dict(sorted(contents.items())))


def _content(item: ComponentFiles, cache: DigestCache, pool: ThreadPoolExecutor) -> ComponentContent:
    files = sorted({entry.file for entry in item.tensors.values()})
    rows: dict[str, dict[str, str]] = {}
    for digest in digest_files(item.source, files, cache):
        entries = [entry for entry in item.tensors.values() if entry.file == digest.path]
        rows[digest.path] = _table(item.source.folder / digest.path, digest.sha256, entries, pool)
    tensors = {name: rows[entry.file][name] for name, entry in sorted(item.tensors.items())}
    for name, first in TIED.items():  # a table that is stored under both of its names
        if name in tensors and tensors.get(first) == tensors[name]:
            del tensors[name]
    documents = {
        name: _document(item.source, path)
        for name, path in sorted(item.documents.items())
        if name != SPECIAL_TOKENS or not _repeats_config(item)
    }
    return ComponentContent(tensors=tensors, documents=documents)


def _repeats_config(item: ComponentFiles) -> bool:
    """Return whether ``special_tokens_map.json`` says nothing that ``tokenizer_config.json`` does not say.

    Transformers writes the tokens into both files, and reads a token from the first only if the second lacks it.
    """
    config = item.documents.get("tokenizer_config.json")
    if config is None:
        return False
    pair = [_settings(item.source, path) for path in (item.documents[SPECIAL_TOKENS], config)]
    tokens, settings = ({key: _token(value) for key, value in side.items()} for side in pair)
    return bool(tokens) and all(key in settings and settings[key] == value for key, value in tokens.items())


def _settings(source: LocalSource, path: str) -> dict[str, Any]:
    size = source.files[path].size
    try:
        value = parse_foreign(source.read(path, 0, size), path) if size <= _MAX_JSON else None
    except UnreadableError:
        return {}
    return value if isinstance(value, dict) else {}


def _token(value: Any) -> Any:
    """Return a token's text, whether it is written as text or with its flags."""
    return value["content"] if isinstance(value, dict) and isinstance(value.get("content"), str) else value


def _table(file: Path, sha256: str, entries: list[TensorEntry], pool: ThreadPoolExecutor) -> dict[str, str]:
    """Return the digests of ``entries`` of one file, from the cache or from its bytes."""
    stored_table = cache_file().parent / "tensors" / f"{sha256}.json"
    try:
        table = _TABLE.validate_python(read_json(stored_table), strict=True)
    except (OSError, UnreadableError, ValidationError):
        table = {}
    missing = [entry for entry in entries if entry.name not in table]
    if missing:
        try:
            values = list(pool.map(lambda entry: tensor_digest(file, entry), missing))
        except OSError as error:
            raise SourceError(f"cannot read ({error})", place=str(file), kind="disk") from error
        table |= {entry.name: value for entry, value in zip(missing, values, strict=True)}
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time and nothing else
            write_text_atomic(stored_table, json.dumps(table, sort_keys=True, indent=0))
    return table


def tensor_digest(file: Path, entry: TensorEntry) -> str:
    """Return ``DTYPE[shape] digest`` of one tensor, read in blocks. Raises ``OSError``."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        position, end = entry.start, entry.start + entry.nbytes
        while position < end:
            block = os.pread(stream.fileno(), min(_BLOCK, end - position), position)
            if not block:
                raise OSError(f"the file ends at byte {position}, inside {entry.name}")
            digest.update(block)
            position += len(block)
    shape = ",".join(map(str, entry.shape))
    return f"{entry.dtype}[{shape}] {digest.hexdigest()[:_DIGITS]}"


def _document(source: LocalSource, path: str) -> str:
    size = source.files[path].size
    if path.endswith(".json") and size <= _MAX_JSON:
        data = source.read(path, 0, size)
        return document_digest(posixpath.basename(path), data)
    digest = hashlib.sha256()
    for start in range(0, size, _BLOCK):
        digest.update(source.read(path, start, min(_BLOCK, size - start)))
    return digest.hexdigest()[:_DIGITS]


def document_digest(name: str, data: bytes) -> str:
    """Return the digest of a JSON file's values, without keys that no loader reads; of other files, of their bytes."""
    try:
        value = parse_foreign(data, name)
    except UnreadableError:
        return hashlib.sha256(data).hexdigest()[:_DIGITS]
    if isinstance(value, dict) and name not in TABLES:
        # other runtimes read keys of a transformer that Diffusers does not know
        unread = unread_keys(value) if value.get("_class_name") != TRANSFORMER else frozenset()
        value = {key: inner for key, inner in value.items() if _is_read(key) and key not in unread}
        quantization = value.get("quantization_config")
        if isinstance(quantization, dict):
            value["quantization_config"] = _quantization(quantization)
    if isinstance(value, dict) and name == "tokenizer.json":
        value |= {key: None for key in OF_LAST_CALL if key in value}
    if isinstance(value, dict) and name == "model_index.json":
        value = dict(_component(key, inner) for key, inner in value.items() if inner not in (None, [None, None]))
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _component(name: str, entry: Any) -> tuple[str, Any]:
    """Return an entry of ``model_index.json``; Transformers 5 has one class for a tokenizer and its fast form."""
    if name.startswith("tokenizer") and isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str):
        return name, [entry[0], entry[1].removesuffix("Fast")]
    return name, entry


def _quantization(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``quantization_config`` by its meaning.

    ``producer`` names the exporter and its version, null is no setting, and the order of ``ignore`` and the names of
    groups mean nothing.
    """
    value = {key: inner for key, inner in settings.items() if key != "producer" and inner is not None}
    ignore, groups = value.get("ignore"), value.get("config_groups")
    if isinstance(ignore, list) and all(isinstance(item, str) for item in ignore):
        value["ignore"] = sorted(ignore)
    if isinstance(groups, dict):
        bodies = sorted(groups.values(), key=lambda body: json.dumps(_plain(body), sort_keys=True))
        value["config_groups"] = {f"group_{number}": body for number, body in enumerate(bodies)}
    return value


def _is_read(key: str) -> bool:
    return key not in UNREAD and (not key.startswith("_") or key in KEPT_PRIVATE)


def _plain(value: Any) -> Any:
    """Return the value with whole floats as integers: ``3.0`` and ``3`` are the same setting."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
