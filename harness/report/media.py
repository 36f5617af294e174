"""The pictures of one case, written beside its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from harness.frames.clip import Clip, read_clip
from harness.frames.errors import ClipError
from harness.records.base import Record
from harness.records.frames import Tile
from harness.report.focus import Focus, focus, key_frames, tile_frame
from harness.report.load import Entry
from harness.report.redact import redact_text
from harness.report.sprites import Bytes, Sheet, amplified_difference, crop, write_sheets, write_still
from harness.report.text import clean

THUMBNAIL = (208, 125)
FRAMES_PER_SECOND = 16
"""Wan2.2's own rate; only the preview's speed depends on it."""


class Side(Record):
    """One clip of the player."""

    name: str
    """``golden`` or ``candidate``."""
    sheet: Sheet
    stills: dict[int, str] = {}
    """Frame to lossless picture, where the sheet is lossy."""


class TileView(Record):
    """The worst tile, cut out without loss."""

    frame: int
    tile: Tile
    pictures: dict[str, str]
    """``golden``, ``candidate``, ``difference`` to file."""
    gain: int


class Media(Record):
    """Everything that a case's page shows as pictures."""

    frames: int = 0
    width: int = 0
    height: int = 0
    fps: int = FRAMES_PER_SECOND
    sides: tuple[Side, ...] = ()
    start: int = 0
    """The frame that the player opens at: the worst one."""
    tile: TileView | None = None
    thumbnails: dict[str, str] = {}
    """Side to file, relative to the overview."""
    problems: tuple[str, ...] = ()


def write_media(entry: Entry, root: Path) -> Media:
    """Write the pictures of a case under ``root/media/<slug>``.

    A clip that is absent is left out; a damaged one, or two of different shapes, are named in ``problems``.
    """
    problems: list[str] = []
    clips = {
        name: clip
        for name, files in (
            ("golden", ("golden", "golden.safetensors")),
            ("candidate", ("candidate", "clip.safetensors")),
        )
        if (clip := _read(entry, files, problems)) is not None
    }
    _drop_strangers(entry, clips, problems)
    if not clips:
        return Media(problems=tuple(problems))
    if len({clip.shape for clip in clips.values()}) > 1:
        shapes = " and ".join(f"{name} {list(clip.shape)}" for name, clip in clips.items())
        problems.append(f"golden and candidate have different shapes: {shapes}; only the candidate is shown")
        del clips["golden"]
    folder = root / "media" / entry.slug
    folder.mkdir(parents=True, exist_ok=True)
    where = focus(entry.record)
    count, height, width, _ = next(iter(clips.values())).shape
    start = where.frame if where and 0 <= where.frame < count else 0
    return Media(
        frames=count,
        width=width,
        height=height,
        sides=_sides(entry, clips, folder),
        start=start,
        tile=_tile(entry, clips, folder, where),
        thumbnails={name: _thumbnail(clip.frames[start], folder, name, entry.slug) for name, clip in clips.items()},
        problems=tuple(problems),
    )


def _read(entry: Entry, files: tuple[str, ...], problems: list[str]) -> Clip | None:
    path = entry.artifact(*files)
    if path is None:
        return None
    try:
        return read_clip(path)
    except ClipError as error:
        problems.append(clean(redact_text(str(error))))
        return None


def _drop_strangers(entry: Entry, clips: dict[str, Clip], problems: list[str]) -> None:
    """Leave out a clip that is not the one that was measured: pictures beside other numbers would mislead."""
    comparison = entry.record.comparison
    if comparison is None:
        return
    for name, digest in (("golden", comparison.golden_sha256), ("candidate", comparison.candidate_sha256)):
        if name in clips and clips[name].digest != digest:
            problems.append(
                f"the {name} in this folder is not the clip that was measured: "
                f"its pixels have sha256 {clips[name].digest[:12]}, the record says {digest[:12]}; it is not shown"
            )
            del clips[name]


def _sides(entry: Entry, clips: dict[str, Clip], folder: Path) -> tuple[Side, ...]:
    prefix = f"../media/{entry.slug}"
    sides: list[Side] = []
    for name, clip in clips.items():
        if sides and clip == clips[sides[0].name]:
            sides.append(Side(name=name, sheet=sides[0].sheet, stills=sides[0].stills))
            continue
        sheet = write_sheets(clip.frames, folder, name, prefix)
        stills: dict[int, str] = {}
        if not sheet.lossless:
            for frame in key_frames(entry.record, clip.shape[0]):
                file = f"{name}-frame-{frame:06d}.webp"
                write_still(Image.fromarray(clip.frames[frame]), folder / file)
                stills[frame] = f"{prefix}/{file}"
        sides.append(Side(name=name, sheet=sheet, stills=stills))
    return tuple(sides)


def _tile(entry: Entry, clips: dict[str, Clip], folder: Path, where: Focus | None) -> TileView | None:
    frame = tile_frame(entry.record)
    if where is None or where.tile is None or frame is None or len(clips) < 2:
        return None
    if not 0 <= frame < clips["golden"].shape[0]:
        return None
    cuts = {name: crop(clip.frames[frame], where.tile) for name, clip in clips.items()}
    if np.array_equal(cuts["golden"], cuts["candidate"]):
        return None
    cuts["difference"], gain = amplified_difference(cuts["golden"], cuts["candidate"])
    pictures = {}
    for name, pixels in cuts.items():
        write_still(_enlarged(pixels), folder / f"tile-{name}.webp")
        pictures[name] = f"../media/{entry.slug}/tile-{name}.webp"
    return TileView(frame=frame, tile=where.tile, pictures=pictures, gain=gain)


def _enlarged(pixels: Bytes) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    factor = max(1, 240 // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _thumbnail(frame: Bytes, folder: Path, name: str, slug: str) -> str:
    picture = Image.fromarray(frame)
    picture.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    file = f"thumbnail-{name}.webp"
    picture.save(folder / file, "WEBP", quality=80, method=2)
    return f"media/{slug}/{file}"
