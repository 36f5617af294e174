"""Write the pictures of one case beside its page."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.definitions.image import decode, read_picture
from harness.frames.clip import Clip, read_clip
from harness.frames.errors import ClipError
from harness.records.base import Record
from harness.records.case_record import CaseRecord
from harness.records.frames import MetricResult, Tile
from harness.records.limits import LimitCheck
from harness.records.run_folder import CLIP_FILE, GOLDEN_CLIP_FILE
from harness.report.load import Entry
from harness.report.redact import redact_text
from harness.report.text import is_red, number
from harness.text import clean

# Clips as pictures that a page can seek in: contact sheets to play, lossless single frames to judge.


Bytes = npt.NDArray[np.uint8]

PREVIEW_WIDTH = 480
"""Widest cell of a lossy contact sheet, in pixels."""
LOSSLESS_PIXELS = 2_000_000
"""Most pixels (frames x height x width) of a clip that is played without loss."""
FRAMES_PER_SHEET = 49
_MACROBLOCK = 16
"""Lossy WebP predicts across blocks of 16 pixels: cells that end on a block's edge do not bleed into each other."""
_QUALITY = 82


class Sheet(Record):
    """The contact sheets of one clip. Frame ``i`` lies on file ``i // per_sheet``."""

    files: tuple[str, ...]
    """Paths relative to the page."""
    columns: int
    per_sheet: int
    cell_width: int
    cell_height: int
    lossless: bool


def write_sheets(frames: Bytes, folder: Path, name: str, prefix: str) -> Sheet:
    """Write the frames [T, H, W, 3] as contact sheets ``<folder>/<name>-N.webp``.

    Args:
        frames: uint8 RGB.
        folder: folder of the files.
        name: start of the file names.
        prefix: path from the page to the files, such as ``../media/case``.
    """
    count, height, width, _ = frames.shape
    lossless = count * height * width <= LOSSLESS_PIXELS
    cell_width, cell_height = (width, height) if lossless else preview_size(width, height)
    per_sheet = min(count, FRAMES_PER_SHEET)
    columns = max(1, math.ceil(math.sqrt(per_sheet * cell_height / cell_width)))
    files = []
    for sheet_number, start in enumerate(range(0, count, per_sheet)):
        part = frames[start : start + per_sheet]
        rows = math.ceil(len(part) / columns)
        sheet = Image.new("RGB", (columns * cell_width, rows * cell_height))
        for place, frame in enumerate(part):
            picture = Image.fromarray(frame)
            if not lossless:
                picture = picture.resize((cell_width, cell_height), Image.Resampling.LANCZOS, reducing_gap=2.0)
            sheet.paste(picture, (place % columns * cell_width, place // columns * cell_height))
        file = f"{name}-{sheet_number}.webp"
        if lossless:
            write_still(sheet, folder / file)
        else:
            sheet.save(folder / file, "WEBP", quality=_QUALITY, method=2)
        files.append(f"{prefix}/{file}")
    return Sheet(
        files=tuple(files),
        columns=columns,
        per_sheet=per_sheet,
        cell_width=cell_width,
        cell_height=cell_height,
        lossless=lossless,
    )


def write_still(picture: Image.Image, path: Path) -> None:
    """Write one picture as lossless WebP."""
    picture.save(path, "WEBP", lossless=True, quality=20, method=1)


def preview_size(width: int, height: int) -> tuple[int, int]:
    """Return the cell size of a lossy sheet: at most ``PREVIEW_WIDTH`` wide, sides a multiple of 16.

    The page restores the aspect ratio.
    """
    scale = min(1.0, PREVIEW_WIDTH / width)
    return _round(width * scale), _round(height * scale)


def _round(side: float) -> int:
    return max(_MACROBLOCK, round(side / _MACROBLOCK) * _MACROBLOCK)


def crop(frame: Bytes, tile: Tile, margin: float = 0.5) -> Bytes:
    """Return the tile of ``frame`` [H, W, 3] with ``margin`` of its size on every side, cut at the frame's edge."""
    height, width = frame.shape[:2]
    left, top = max(0, int(tile.x - tile.width * margin)), max(0, int(tile.y - tile.height * margin))
    right = min(width, int(tile.x + tile.width * (1 + margin)) + 1)
    bottom = min(height, int(tile.y + tile.height * (1 + margin)) + 1)
    return frame[top:bottom, left:right] if right > left and bottom > top else frame


def amplified_difference(golden: Bytes, candidate: Bytes) -> tuple[Bytes, int]:
    """Return the absolute difference of two pictures [H, W, 3], amplified, and the gain: a power of two up to 64."""
    difference = np.abs(golden.astype(np.int16) - candidate.astype(np.int16))
    peak = int(difference.max(initial=0))
    gain = 1
    while peak and peak * gain * 2 <= 255 and gain < 64:
        gain *= 2
    return (difference * gain).astype(np.uint8), gain


# The frame and the tile that decided the verdict.


MOST_KEY_FRAMES = 8
"""Lossless frames of a case that is not green."""
GREEN_KEY_FRAMES = 2
"""Lossless frames of a green case: the report of a lane with 300 large cases must be small enough to upload."""
_PAST_ANY_LIMIT = 1e9


@dataclass(frozen=True)
class Focus:
    """The worst frame of a case."""

    frame: int
    tile: Tile | None
    why: str


def focus(record: CaseRecord) -> Focus | None:
    """Return the worst frame: of the failed sanity check, else of the verdict's limit, else of the most broken limit.

    If everything passed, it is the frame nearest to a limit. Return ``None`` if no measurement names a frame: nothing
    was measured, or the clips are bit-exact.
    """
    tile = _worst_tile(record)
    for failure in record.sanity.failures if record.sanity else ():
        if failure.frame is not None:
            return Focus(failure.frame, tile, failure.message)
    cause = record.verdict.cause
    ranked = sorted(
        (check for check in record.limits if check.frame is not None),
        key=lambda check: (cause.startswith(f"{check.metric}_") and not check.passed, _used(check)),
        reverse=True,
    )
    for check in ranked:
        if check.frame is not None and _used(check) > 0:
            return Focus(check.frame, tile, _sentence(check))
    metrics = record.comparison.metrics if record.comparison and not record.comparison.bit_exact else ()
    for metric in metrics:
        if metric.worst_frame is not None and metric.worst != metric.ideal:
            return Focus(metric.worst_frame, tile, f"{metric.name} is worst here: {number(metric.worst)}")
    return None


def key_frames(record: CaseRecord, count: int) -> tuple[int, ...]:
    """Return the frames to keep without loss, each once: the worst frames, then first, middle and last."""
    first = focus(record)
    frames = [first.frame] if first else []
    frames += [check.frame for check in record.limits if check.frame is not None and not check.passed]
    frames += [check.frame for check in record.sanity.failures if check.frame is not None] if record.sanity else []
    frames += [metric.worst_frame for metric in _tiled(record) if metric.worst_frame is not None]
    frames += [0, count // 2, count - 1]
    inside = dict.fromkeys(frame for frame in frames if 0 <= frame < count)
    return tuple(inside)[: MOST_KEY_FRAMES if is_red(record) else GREEN_KEY_FRAMES]


def _used(check: LimitCheck) -> float:
    if not check.gates:
        return 0.0
    if check.value is None or (check.margin_consumed is None and not check.passed):
        return _PAST_ANY_LIMIT
    return check.margin_consumed or 0.0


def _sentence(check: LimitCheck) -> str:
    if check.passed:
        return f"{check.metric} comes nearest to its limit here: {number(check.value)}, limit {number(check.limit)}"
    side = "below" if check.direction == "higher_is_better" else "above"
    return f"{check.metric} is {number(check.value)} here, {side} its limit of {number(check.limit)}"


def _tiled(record: CaseRecord) -> tuple[MetricResult, ...]:
    metrics = record.comparison.metrics if record.comparison else ()
    return tuple(metric for metric in metrics if metric.worst_tile is not None)


def tile_frame(record: CaseRecord) -> int | None:
    """Return the frame that holds the worst tile; ``None`` without one."""
    return next((metric.worst_frame for metric in _tiled(record) if metric.worst_frame is not None), None)


def _worst_tile(record: CaseRecord) -> Tile | None:
    return next((metric.worst_tile for metric in _tiled(record)), None)


ROLES = ("image", "last_image")
THUMBNAIL = (208, 125)
FRAMES_PER_SECOND = 16
"""Wan2.2's own rate; only the preview's speed depends on it."""


class Side(Record):
    """One clip of the player."""

    name: str
    """``golden`` or ``candidate``."""
    sheet: Sheet
    stills: dict[int, str] = {}
    """Frame to lossless picture, if the sheet is lossy."""


class TileView(Record):
    """The worst tile, cut out without loss."""

    frame: int
    tile: Tile
    pictures: dict[str, str]
    """``golden``, ``candidate``, ``difference`` to file."""
    gain: int


class Media(Record):
    """All pictures of a case's page."""

    frames: int = 0
    width: int = 0
    height: int = 0
    fps: int = FRAMES_PER_SECOND
    sides: tuple[Side, ...] = ()
    start: int = 0
    """The frame at which the player opens: the worst frame."""
    tile: TileView | None = None
    thumbnails: dict[str, str] = {}
    """Side to file, relative to the overview."""
    given: dict[str, str] = {}
    """Pictures of the request to file: ``image`` and ``last_image``, the targets of first and last frame."""
    problems: tuple[str, ...] = ()


def write_media(entry: Entry, root: Path) -> Media:
    """Write the pictures of a case under ``root/media/<slug>``.

    An absent clip is left out; a damaged clip, or two clips of different shapes, are named in ``problems``.
    """
    problems: list[str] = []
    clips = {
        name: clip
        for name, files in (
            ("golden", ("golden", GOLDEN_CLIP_FILE)),
            ("candidate", ("candidate", CLIP_FILE)),
        )
        if (clip := _read(entry, files, problems)) is not None
    }
    _drop_strangers(entry, clips, problems)
    input_pictures = _input_pictures(entry, root, problems)
    if not clips:
        return Media(given=input_pictures, problems=tuple(problems))
    if len({clip.shape for clip in clips.values()}) > 1:
        shapes = " and ".join(f"{name} {list(clip.shape)}" for name, clip in clips.items())
        problems.append(f"golden and candidate have different shapes: {shapes}; only the candidate is shown")
        del clips["golden"]
    folder = root / "media" / entry.slug
    folder.mkdir(parents=True, exist_ok=True)
    focus_of_run = focus(entry.record)
    count, height, width, _ = next(iter(clips.values())).shape
    start = focus_of_run.frame if focus_of_run and 0 <= focus_of_run.frame < count else 0
    return Media(
        frames=count,
        width=width,
        height=height,
        sides=_sides(entry, clips, folder),
        start=start,
        tile=_tile(entry, clips, folder, focus_of_run),
        thumbnails=_thumbnails(clips, start, folder, entry.slug),
        given=input_pictures,
        problems=tuple(problems),
    )


def _input_pictures(entry: Entry, root: Path, problems: list[str]) -> dict[str, str]:
    """Write the pictures of the request, decoded and encoded again: a run's folder is untrusted.

    Returns:
        Role (``image``, ``last_image``) to file, relative to the page.
    """
    written: dict[str, str] = {}
    for role in ROLES:
        path = entry.artifact(f"{role}.png")
        if path is None:
            continue
        try:
            data = read_picture(path)
            with Image.open(io.BytesIO(data), formats=("PNG",)) as header:
                width, height = header.size
            picture = decode(data, width, height)
        except (OSError, ValueError) as error:
            problems.append(clean(redact_text(f"the request's {role} cannot be shown: it {error}")))
            continue
        folder = root / "media" / entry.slug
        folder.mkdir(parents=True, exist_ok=True)
        write_still(picture, folder / f"given-{role}.webp")
        written[role] = f"../media/{entry.slug}/given-{role}.webp"
    return written


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
    """Leave out a clip whose digest differs from the measured clip: its pictures would not fit the numbers."""
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
            # equal clips share their files
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


def _tile(entry: Entry, clips: dict[str, Clip], folder: Path, focus_of_run: Focus | None) -> TileView | None:
    frame = tile_frame(entry.record)
    if focus_of_run is None or focus_of_run.tile is None or frame is None or len(clips) < 2:
        return None
    if not 0 <= frame < clips["golden"].shape[0]:
        return None
    cuts = {name: crop(clip.frames[frame], focus_of_run.tile) for name, clip in clips.items()}
    if np.array_equal(cuts["golden"], cuts["candidate"]):
        return None
    cuts["difference"], gain = amplified_difference(cuts["golden"], cuts["candidate"])
    pictures = {}
    for name, pixels in cuts.items():
        write_still(_enlarged(pixels), folder / f"tile-{name}.webp")
        pictures[name] = f"../media/{entry.slug}/tile-{name}.webp"
    return TileView(frame=frame, tile=focus_of_run.tile, pictures=pictures, gain=gain)


def _enlarged(pixels: Bytes) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    factor = max(1, 240 // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _thumbnails(clips: dict[str, Clip], frame: int, folder: Path, slug: str) -> dict[str, str]:
    """Write thumbnails of both sides at the worst frame, and of their amplified difference unless they are equal."""
    pictures = {name: _thumbnail(clip.frames[frame], folder, name, slug) for name, clip in clips.items()}
    if len(clips) == 2:
        golden, candidate = (clips[name].frames[frame] for name in ("golden", "candidate"))
        if not np.array_equal(golden, candidate):
            pictures["difference"] = _thumbnail(amplified_difference(golden, candidate)[0], folder, "difference", slug)
    return pictures


def _thumbnail(frame: Bytes, folder: Path, name: str, slug: str) -> str:
    picture = Image.fromarray(frame)
    picture.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    file = f"thumbnail-{name}.webp"
    picture.save(folder / file, "WEBP", quality=80, method=2)
    return f"media/{slug}/{file}"
