"""Assign a folder's files to experts: Diffusers, Wan's own repository, ComfyUI, LightX2V and GGUF layouts."""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.formats.errors import BadReferenceError
from harness.formats.file_types import PICKLES
from harness.inspector.index import WEIGHT_FILES
from harness.inspector.parts import EXPERTS
from harness.inspector.sources import Source
from harness.text import listed

HIGH = re.compile(r"(^|[^a-z])high([^a-z]|noise|$)", re.IGNORECASE)
LOW = re.compile(r"(^|[^a-z])low([^a-z]|noise|$)", re.IGNORECASE)
SHARD = re.compile(r"-\d+-of-\d+\.(safetensors|gguf)$|(^|[/_-])(non_)?block(_\d+)?\.safetensors$")
"""Parts of one transformer: numbered shards, and the files per block that LightX2V writes."""
WAN_FOLDERS = {"high_noise_model": "transformer", "low_noise_model": "transformer_2"}
"""Wan's own repository: the expert of high noise runs first, as Diffusers' ``transformer`` does."""
OTHER = re.compile(
    r"(^|/)(vae|text_encoders?|text_encoder_2|tokenizers?|scheduler|image_encoder|clip(_vision)?|umt5[^/]*|google|assets|"
    r"loras?|upscale_models|examples)(/|$)",
    re.IGNORECASE,
)
"""Folders of components other than the transformer."""
OTHER_FILES = re.compile(r"(^|[/_-])(vae|umt5|t5|clip|lora|taehv|taew)", re.IGNORECASE)


class Place(NamedTuple):
    """Folder and weight files of one expert in a source."""

    folder: str
    files: tuple[str, ...] | None = None
    """Its weight files; ``None``: all of the folder."""


def noise_of(path: str) -> str:
    """Return ``transformer`` (high noise) or ``transformer_2`` (low noise) if a path names its noise level, else "".

    For example, ``HighNoise/model.gguf`` gives ``transformer``. A path that names both levels gives "".
    """
    # HighNoise is the same word as high_noise
    name = re.sub(r"([a-z])([A-Z])", r"\1_\2", path)
    high, low = HIGH.search(name) is not None, LOW.search(name) is not None
    if high == low:
        return ""
    return "transformer" if high else "transformer_2"


def places_of(source: Source) -> dict[str, Place]:
    """Return expert to its place. Weights that name no expert are a single transformer.

    Raises:
        BadReferenceError: several complete files could be the same expert.
    """
    weights = (*WEIGHT_FILES, *PICKLES)
    places = {
        expert: Place(expert)
        for expert in EXPERTS
        if any(path.startswith(f"{expert}/") and path.endswith((*weights, ".json")) for path in source.files)
    }
    if places:
        return places
    places = {
        expert: Place(folder)
        for folder, expert in WAN_FOLDERS.items()
        if any(path.startswith(f"{folder}/") and path.endswith(weights) for path in source.files)
    }
    return places or _loose(source)


def folders(source: Source) -> dict[str, str]:
    """Return expert to folder; the root is the empty string."""
    return {expert: place.folder for expert, place in places_of(source).items()}


def _loose(source: Source) -> dict[str, Place]:
    """Return the places of weight files at the root, or in folders of any name."""
    paths = [path for path in source.files if path.endswith(WEIGHT_FILES)]
    if not paths:
        paths = [path for path in source.files if path.endswith(PICKLES)]
    inner = [path for path in paths if not OTHER.search(path) and not OTHER_FILES.search(path.rpartition("/")[2])]
    # a file at the top may be the transformer although its name resembles another component's
    inner = inner or [path for path in paths if "/" not in path]
    root = [path for path in inner if "/" not in path]
    chosen = root or inner
    groups: dict[str, list[str]] = {}
    for path in chosen:
        groups.setdefault(noise_of(path), []).append(path)
    if not chosen:
        return {}
    named = {expert: files for expert, files in groups.items() if expert}
    # if most files name no level, `high` in a few names is chance
    if not named or (root and "" in groups and len(groups[""]) >= len(chosen) / 2):
        named = {"transformer": chosen}
    return {expert: _place(source, files) for expert, files in sorted(named.items())}


def _place(source: Source, files: list[str]) -> Place:
    folders = {path.rpartition("/")[0] for path in files}
    plain = [path for path in files if not SHARD.search(path)]
    config = {path for path in source.files if path.endswith((".index.json", "config.json"))}
    folder = next(iter(sorted(folders)))
    described = any(path.rpartition("/")[0] == folder for path in config)
    several = len(folders) > 1 or (len(plain) > 1 and not described)
    if several:
        raise BadReferenceError(
            f"{len(files)} files could be the same transformer ({listed(sorted(files))})",
            place=source.label,
            remedy=f"name one of them by its path: quantgate inspect {source.label}/{sorted(files)[0]}",
        )
    index = [path for path in config if path.endswith(".index.json") and path.rpartition("/")[0] == folder]
    return Place(folder, (*files, *index))
