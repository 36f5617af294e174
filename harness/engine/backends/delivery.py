"""Read the frames that a program delivers: the accepted containers, and the information that each of them loses.

The first bytes of a file decide its container, never its name: ``numpy.save`` appends ``.npy`` to a name, and runtimes
write videos under names of their own. No file is read in a way that could run code: an ``npy`` file that holds Python
objects is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.definitions.case import Case
from harness.errors import InfraError, InvalidCaseError
from harness.frames.clip import Clip
from harness.records.generation import Container, Delivery, FloatStats

Frames = npt.NDArray[np.generic]

ROUNDED = "frames came rounded to 8 bits: NaN, infinity and overshoot before rounding are not seen"
LOSSY = (
    "frames came out of a lossy video ({codec}, {pixels}): faults smaller than its compression are not seen, the "
    "encoder is part of what is compared, and NaN, infinity and overshoot before rounding are not seen"
)
_ORDER: tuple[Container, ...] = ("safetensors", "npy", "png", "video")
"""Best fidelity first: if several containers hold the same video, the best is read."""
FORMS = (
    "correct what the program writes: docs/bring-your-runtime.md in quantgate's repository lists the files and values "
    "that are read"
)
"""Next step for frames that are not as requested."""
_MOST_HEADER = 16
_MOST_LISTED = 5


@dataclass(frozen=True)
class Delivered:
    """Frames that a program delivered.

    Attributes:
        clip: the frames, uint8.
        stats: statistics of the floats before rounding; of the rounded values if the program delivered no floats.
        delivery: the container, and the information that it loses.
    """

    clip: Clip
    stats: FloatStats
    delivery: Delivery


def read_delivery(out: Path, folder: Path, case: Case) -> Delivered:
    """Read the frames that a program wrote, and check them against the request of the case.

    Args:
        out: the path that replaced ``{out}``: a file, a folder, or the beginning of a file's name.
        folder: the folder that replaced ``{out_dir}``.
        case: states number, height and width of the frames.

    Raises:
        InfraError: kind ``protocol``: no file holds frames, several of one kind do, or the frames are not those
            requested.
        InvalidCaseError: the program delivered a video, and no decoder is installed.
    """
    container, files = _choose(out, folder)
    place = files[0] if container != "png" else files[0].parent
    frames, codec = _READERS[container](files)
    count, height, width = case.sampling.num_frames, case.sampling.height, case.sampling.width
    wanted = (count, height, width, 3)
    kinds = (np.uint8, np.float32, np.float16)
    if frames.shape != wanted or frames.dtype not in kinds:
        raise _refused(
            f"frames are {frames.dtype} {list(frames.shape)}, asked for uint8, float16 or float32 {list(wanted)}", place
        )
    costs = LOSSY.format(codec=codec.partition(" ")[0], pixels=codec.partition(" ")[2]) if codec else ROUNDED
    if frames.dtype == np.uint8:
        low, high = int(frames.min()), int(frames.max())
        stats = FloatStats(nan=0, inf=0, minimum=low / 255, maximum=high / 255)
        delivery = Delivery(container=container, dtype="uint8", codec=codec, costs=costs)
        return Delivered(Clip(np.ascontiguousarray(frames.astype(np.uint8))), stats, delivery)
    video = frames.astype(np.float32)
    delivery = Delivery(container=container, dtype=str(frames.dtype))
    return Delivered(round_video(video), stats_of(video), delivery)


def _choose(out: Path, folder: Path) -> tuple[Container, list[Path]]:
    """Return the container to read and its files. Of several containers, choose the least lossy."""
    by_container: dict[Container, list[Path]] = {}
    for path in _files(out, folder):
        if (container := container_of(path)) is not None:
            by_container.setdefault(container, []).append(path)
    for container in _ORDER:
        files = by_container.get(container, [])
        if len(files) > 1 and container != "png":
            names = ", ".join(path.name for path in files[:_MOST_LISTED])
            raise _refused(
                f"the program wrote {len(files)} {container} files ({names}); which are the frames?",
                folder,
                remedy="let it write one of them, or all frames into one file",
            )
        if files:
            return container, sorted(files, key=_natural)
    # plain files first: they are more likely to be what the program took for its result
    written = [f"{path.name} {_describe(path)}" for path in sorted(_written(out, folder), key=_is_no_file)]
    # if nothing was written, the engine's log is the place to look: the parent names it if an error has no remedy
    raise _refused(
        f"the program's result cannot be read: {', '.join(written[:_MOST_LISTED]) or 'it wrote nothing'}; "
        "safetensors, npy, PNG and videos are read",
        out,
        remedy=FORMS if written else "",
    )


_OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "is a JPEG"),
    (b"GIF8", "is a GIF"),
    (b"RIFF", "is a WebP or WAV file"),
    (b"BM", "is a BMP"),
    (b"II*\0", "is a TIFF"),
    (b"MM\0*", "is a TIFF"),
    (b"PK\x03\x04", "is a zip archive, as torch.save and numpy.savez write it; neither is loaded"),
    (b"\x80", "is a pickle, which is never loaded"),
)
"""First bytes of formats that programs write by mistake, and the predicate of the error."""


def _describe(path: Path) -> str:
    """Return a predicate that says of which kind an unusable result is, such as ``is empty``."""
    if path.is_symlink():
        return "is a link, which is not followed"
    if path.is_dir():
        return "is a folder without a file that is read"
    if not path.is_file():
        return "is no regular file"
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        return "is empty"
    for magic, words in _OTHER_FORMATS:
        if head.startswith(magic):
            return words
    is_text = all(byte >= 0x20 or byte in b"\t\n\r\x1b" for byte in head)
    return "is a text file" if is_text else "begins like no format that is read"


def _written(out: Path, folder: Path) -> list[Path]:
    """Return everything that lies in the places for frames: files, folders, links, pipes."""
    places = sorted(out.parent.glob(f"{out.name}*")) if out.parent.is_dir() else []
    for place in (out, folder):
        if place.is_dir() and not place.is_symlink():
            places += sorted(place.rglob("*"))
    return list(dict.fromkeys(places))


def _is_no_file(path: Path) -> bool:
    return path.is_symlink() or not path.is_file()


def _files(out: Path, folder: Path) -> list[Path]:
    """Return the files that may hold frames. Links are not followed: they could lead to a golden."""
    return [path for path in _written(out, folder) if not _is_no_file(path)]


def container_of(path: Path) -> Container | None:
    """Return a file's container by its first bytes; ``None`` for a file of another kind."""
    with path.open("rb") as file:
        head = file.read(_MOST_HEADER)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    riff = head.startswith(b"RIFF") and head[8:12] == b"AVI "
    if head[4:8] == b"ftyp" or head.startswith(b"\x1a\x45\xdf\xa3") or riff:
        return "video"
    size = path.stat().st_size
    header = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and header <= size - 8:
        return "safetensors"
    return None


def _natural(path: Path) -> tuple[str | int, ...]:
    """Return a sort key that puts ``frame_10`` after ``frame_9``."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.as_posix()))


def _read_safetensors(files: list[Path]) -> tuple[Frames, str]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors: dict[str, Frames] = load_file(files[0])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(f"the program's result cannot be read: {error}", files[0]) from error
    if set(tensors) != {"frames"}:
        raise _refused(f"the result holds {sorted(tensors) or 'nothing'}, not one tensor `frames`", files[0])
    return tensors["frames"], ""


def _read_npy(files: list[Path]) -> tuple[Frames, str]:
    try:
        # pickled arrays could run code
        frames: Frames = np.load(files[0], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _refused(f"the program's result cannot be read: {error}", files[0]) from error
    return frames, ""


def _read_pngs(files: list[Path]) -> tuple[Frames, str]:
    from PIL import Image, UnidentifiedImageError

    frames: list[npt.NDArray[np.uint8]] = []
    for path in files:
        try:
            with Image.open(path, formats=["PNG"]) as picture:
                if picture.mode not in ("RGB", "RGBA"):
                    raise _refused(f"its mode is {picture.mode}; a frame is 8-bit RGB", path)
                # transparency has no defined color in a frame
                if picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255):
                    raise _refused("it is not opaque; a frame is 8-bit RGB", path)
                frames.append(np.asarray(picture.convert("RGB")))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise _refused(f"the program's result cannot be read: {error}", path) from error
    if len({frame.shape for frame in frames}) > 1:
        raise _refused(f"its {len(frames)} pictures have different sizes", files[0].parent)
    return np.stack(frames), ""


def _read_video(files: list[Path]) -> tuple[Frames, str]:
    try:
        import av
    except ImportError as error:
        raise InvalidCaseError(
            f"the program wrote a video ({files[0].name}), and no decoder is installed",
            remedy="pip install 'quantgate[video]'; or let the program write PNG, npy or safetensors, which lose less",
        ) from error
    frames: list[Frames] = []
    try:
        # a playlist in a video file must not open other URLs
        with av.open(str(files[0]), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise _refused("it holds no video", files[0])
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            codec = stream.codec_context
            frames.extend(frame.to_ndarray(format="rgb24") for frame in container.decode(stream))
            name = f"{codec.name} {codec.pix_fmt or 'unknown pixels'}"
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _refused(f"the program's result cannot be read: {error}", files[0]) from error
    if not frames or len({frame.shape for frame in frames}) > 1:
        raise _refused("it holds no frames, or frames of different sizes", files[0])
    return np.stack(frames), name


_READERS: dict[Container, Callable[[list[Path]], tuple[Frames, str]]] = {
    "safetensors": _read_safetensors,
    "npy": _read_npy,
    "png": _read_pngs,
    "video": _read_video,
}


def round_video(video: npt.NDArray[np.float32]) -> Clip:
    """Round [T, H, W, 3], clipped to [0, 1], to uint8 as diffusers' ``numpy_to_pil`` does: times 255, half to even.

    NaN becomes 0, so that the clip can still be viewed; the float statistics count it.
    """
    frames = np.empty(video.shape, dtype=np.uint8)
    for index, frame in enumerate(video):
        healthy = np.nan_to_num(frame, nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
        frames[index] = np.rint(healthy * 255).astype(np.uint8)
    return Clip(frames)


def stats_of(video: npt.NDArray[np.floating[Any]]) -> FloatStats:
    """Count NaN and infinity in a float video [T, H, W, 3] in [0, 1], and return them with its extremes.

    Extremes are those of the finite values; 0 if there are none.
    """
    finite = np.isfinite(video)
    bad = np.flatnonzero(~finite.reshape(video.shape[0], -1).all(axis=1))
    healthy = video[finite]
    return FloatStats(
        nan=int(np.isnan(video).sum()),
        inf=int(np.isinf(video).sum()),
        minimum=float(healthy.min()) if healthy.size else 0.0,
        maximum=float(healthy.max()) if healthy.size else 0.0,
        first_bad_frame=int(bad[0]) if bad.size else None,
    )


def _refused(message: str, place: Path, *, remedy: str = FORMS) -> InfraError:
    return InfraError(message, place=str(place), remedy=remedy, kind="protocol")
