"""Changes inside every frame: moved, mirrored, blurred, coarse, compressed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from harness.frames.hypotheses.pair import LUMA_601, Array, Explanation, FramePair

CORNER = 128
"""Side in pixels of the part of a frame on which the quality of a codec is searched."""
JPEG = tuple({"quality": quality, "subsampling": sampling} for quality in range(5, 96) for sampling in (0, 2))
"""Choices of Pillow's coder; ``subsampling`` is that of chroma (0 none, 2 half)."""
WEBP = tuple({"quality": quality} for quality in (0, 2, 4, 6, 8, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90))
"""The same of a key frame of VP8."""
FACTORS = (0.8, 0.75, 2 / 3, 0.6, 0.5)
"""Usual factors of a resize; whole divisors by means of blocks are fitted apart."""
BAR_NOISE = 1.5
"""Largest standard deviation, in levels, of a bar; a codec leaves about one."""
ZOOMS = tuple(float(side) for side in np.linspace(0.5, 0.98, 25))
"""Shares of the sides that a crop may leave; the best is refined by half and quarter steps."""
GRIDS = ((1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 4), (3, 3), (4, 4))


def space(pair: FramePair) -> Iterator[Explanation]:
    """Yield every change inside a frame, fitted."""
    yield from _mirrored(pair)
    yield from _shifted(pair)
    yield from _bars(pair)
    yield from _zoomed(pair)
    yield from _soft(pair)
    yield from _chroma(pair)
    yield from _coded(pair)
    yield from _tiles(pair)


def _mirrored(pair: FramePair) -> Iterator[Explanation]:
    """Yield mirrored pictures and transposed layouts."""
    golden = pair.golden
    count, height, width, _ = golden.shape
    rows = (
        ("flipped", "the picture is mirrored (flipped left to right)", golden[:, :, ::-1]),
        ("flipped", "the picture is upside down (flipped top to bottom)", golden[:, ::-1]),
        ("flipped", "the picture is turned by 180 degrees (flipped both ways)", golden[:, ::-1, ::-1]),
        (
            "transposed",
            "rows and columns are exchanged (height and width transposed)",
            golden.transpose(0, 2, 1, 3).reshape(count, height, width, 3),
        ),
        (
            "transposed",
            "channels are read as if they lay in planes (layout transposed)",
            golden.transpose(0, 3, 1, 2).reshape(count, height, width, 3),
        ),
        (
            "transposed",
            "planes are read as if channels lay side by side (layout transposed)",
            golden.reshape(count, 3, height, width).transpose(0, 2, 3, 1),
        ),
    )
    for code, text, prediction in rows:
        yield Explanation(code, pair.share(prediction), 0, text)


def _shifted(pair: FramePair) -> Iterator[Explanation]:
    """Yield a shift by whole pixels, found by cross-correlation, and a shift by a fraction of a pixel."""
    golden, candidate = pair.golden, pair.candidate
    flat = golden.mean(axis=3), candidate.mean(axis=3)
    chosen = np.unique(np.linspace(0, len(golden) - 1, min(5, len(golden))).round().astype(int))
    power: Array = np.zeros(golden.shape[1:3])
    for index in chosen:
        pictures = [side[index] - side[index].mean() for side in flat]
        spectrum = np.fft.rfft2(pictures[1]) * np.conj(np.fft.rfft2(pictures[0]))
        power = power + np.fft.irfft2(spectrum, s=golden.shape[1:3])
    down, across = (int(place) for place in np.unravel_index(int(power.argmax()), power.shape))
    height, width = golden.shape[1:3]
    down, across = down - height * (down > height // 2), across - width * (across > width // 2)
    if down or across:
        wrapped = np.roll(golden, (down, across), (1, 2))
        share = max(pair.share(wrapped), pair.share(_move(golden, down, across)))
        text = f"the picture is shifted by {across:+d} pixels across and {down:+d} down"
        yield Explanation("shifted", share, 1, text, values={"x": across, "y": down})
    slope_y, slope_x = (np.asarray(np.gradient(golden, axis=axis)) for axis in (1, 2))
    # First-order Taylor expansion: a small shift adds its distance times the negative slope.
    steps = [float(np.clip(step, -2, 2)) for step in pair.solve(-slope_y, -slope_x)]
    prediction = _subpixel(golden, *steps)
    text = f"the picture is shifted by {steps[1]:+.2f} pixels across and {steps[0]:+.2f} down"
    yield Explanation("shifted", pair.share(prediction), 2, text, values={"x": steps[1], "y": steps[0]})


def _move(frames: Array, down: int, across: int) -> Array:
    """Shift frames by whole pixels; the edge repeats."""
    rows = np.clip(np.arange(frames.shape[1]) - down, 0, frames.shape[1] - 1)
    columns = np.clip(np.arange(frames.shape[2]) - across, 0, frames.shape[2] - 1)
    return frames[:, rows][:, :, columns]


def _subpixel(frames: Array, down: float, across: float) -> Array:
    """Shift frames by fractions of a pixel with bilinear interpolation."""
    whole = int(np.floor(down)), int(np.floor(across))
    part = np.float32(down - whole[0]), np.float32(across - whole[1])
    first = _move(frames, *whole) * (1 - part[0]) + _move(frames, whole[0] + 1, whole[1]) * part[0]
    second = _move(frames, whole[0], whole[1] + 1) * (1 - part[0]) + _move(frames, whole[0] + 1, whole[1] + 1) * part[0]
    return np.asarray(first * (1 - part[1]) + second * part[1])


def box(frames: Array, side: int) -> Array:
    """Replace blocks of ``side`` pixels by their means, as nearest resampling does; a rest at the edge has its own."""
    out = frames
    for axis in (1, 2):
        length = out.shape[axis]
        starts = np.arange(0, length, side)
        sums = np.add.reduceat(out, starts, axis=axis)
        counts = np.diff([*starts, length])
        shape = [1] * out.ndim
        shape[axis] = len(starts)
        means = sums / counts.reshape(shape).astype(np.float32)
        out = np.repeat(means, counts, axis=axis)
    return np.asarray(out)


def _smooth(frames: Array, side: int) -> Array:
    """Replace frames by means of blocks of ``side`` pixels, interpolated linearly to full size."""
    out = frames
    for axis in (1, 2):
        length = out.shape[axis]
        starts = np.arange(0, length, side)
        counts = np.diff([*starts, length])
        shape = [1] * out.ndim
        shape[axis] = len(starts)
        means = np.add.reduceat(out, starts, axis=axis) / counts.reshape(shape).astype(np.float32)
        place = (np.arange(length) - (side - 1) / 2) / side
        low = np.clip(np.floor(place).astype(int), 0, len(starts) - 1)
        high = np.minimum(low + 1, len(starts) - 1)
        shape[axis] = length
        part = np.clip(place - low, 0, 1).astype(np.float32).reshape(shape)
        out = np.take(means, low, axis) * (1 - part) + np.take(means, high, axis) * part
    return np.asarray(out)


def _blurred(frames: Array, sigma: float) -> Array:
    from scipy.ndimage import gaussian_filter1d

    out = gaussian_filter1d(frames, sigma, axis=1, mode="nearest", truncate=3.0)
    return np.asarray(gaussian_filter1d(out, sigma, axis=2, mode="nearest", truncate=3.0))


def _repeated(frames: Array, side: int) -> Array:
    large = frames[:, ::side, ::side].repeat(side, 1).repeat(side, 2)
    return large[:, : frames.shape[1], : frames.shape[2]]


def _resampling(length: int, other: int, *, linear: bool, part: tuple[float, float] | None = None) -> Array:
    """Return the matrix [other, length] that resamples a row: nearest, or linear over the width of an output pixel.

    The second is the triangle filter of Pillow's ``BILINEAR``, centred on half pixels. ``part`` is the stretch
    [start, stop) of the row that is resampled; default all of it.
    """
    start, stop = part or (0.0, float(length))
    centre = start + (np.arange(other) + 0.5) * (stop - start) / other - 0.5
    if not linear:
        return np.asarray(np.eye(length, dtype=np.float32)[np.floor(centre + 0.5).astype(int).clip(0, length - 1)])
    reach = max(1.0, (stop - start) / other)
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(length)[None, :] - centre[:, None]) / reach)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _applied(frames: Array, down: Array, across: Array) -> Array:
    """Return frames [T, H, W, C] with a matrix applied to each column and one to each row."""
    out = np.moveaxis(np.tensordot(down, frames, axes=(1, 1)), 0, 1)
    return np.asarray(np.moveaxis(np.tensordot(across, out, axes=(1, 2)), 0, 2))


def resampled(frames: Array, factor: float, *, linear: bool) -> Array:
    """Resize frames [T, H, W, C] to ``factor`` of their sides and back, both ways with the same filter."""

    def there_and_back(length: int) -> Array:
        small = max(1, round(length * factor))
        return _resampling(small, length, linear=linear) @ _resampling(length, small, linear=linear)

    return _applied(frames, *(there_and_back(length) for length in frames.shape[1:3]))


def _bars(pair: FramePair) -> Iterator[Explanation]:
    """Yield bars of one colour at the edges, over the picture or beside a squeezed or a smaller one."""
    golden, candidate = pair.golden, pair.candidate
    height, width = golden.shape[1:3]
    inside = []
    for axis, length in ((1, height), (2, width)):
        others = tuple(place for place in (0, 1, 2) if place != axis)
        flat = candidate.std(axis=others).max(axis=-1) < BAR_NOISE
        lively = golden.std(axis=others).max(axis=-1) >= BAR_NOISE
        first, last = int(np.argmin(flat)), length - int(np.argmin(flat[::-1]))
        first, last = (first if lively[:first].any() else 0), (last if lively[last:].any() else length)
        inside.append((first, last) if first < last else (0, length))
    (top, bottom), (left, right) = inside
    if bottom - top < 8 or right - left < 8 or (bottom - top, right - left) == (height, width):
        return
    outside = np.ones((height, width), bool)
    outside[top:bottom, left:right] = False
    level = candidate[:, outside].mean(axis=(0, 1))
    sides = f"{top} rows above, {height - bottom} below, {left} columns left, {width - right} right"
    colour = "black" if level.max() < 16 else f"one colour ({', '.join(f'{value:.0f}' for value in level)})"
    values = {"top": float(top), "bottom": float(height - bottom), "left": float(left), "right": float(width - right)}
    squeezed = _applied(
        golden, _resampling(height, bottom - top, linear=True), _resampling(width, right - left, linear=True)
    )
    for text, picture in (
        ("cover the picture", golden[:, top:bottom, left:right]),
        ("stand beside the picture, which is squeezed between them", squeezed),
    ):
        prediction = np.broadcast_to(level.astype(np.float32), golden.shape).copy()
        prediction[:, top:bottom, left:right] = picture
        sentence = f"bars (letterbox, borders) of {colour} {text}: {sides}"
        yield Explanation("bars", pair.share(prediction), 2, sentence, values=values)


def _zoomed(pair: FramePair) -> Iterator[Explanation]:
    """Yield a crop around the middle that is enlarged to the full size."""
    middle = len(pair.golden) // 2
    frame, shown = pair.golden[middle : middle + 1], pair.candidate[middle : middle + 1]

    def enlarge(side: int, share: float) -> Array:
        return _resampling(side, side, linear=True, part=((1 - share) / 2 * side, (1 + share) / 2 * side))

    def cut(frames: Array, share: float) -> Array:
        return _applied(frames, *(enlarge(side, share) for side in frames.shape[1:3]))

    def error(share: float) -> float:
        return float(np.square(shown - cut(frame, share)).mean())

    best, step = min(ZOOMS, key=error), ZOOMS[1] - ZOOMS[0]
    for _ in range(3):
        step /= 2
        best = min((best - step, best, min(1.0, best + step)), key=error)
    text = f"the middle {best:.0%} of the picture is enlarged to the full size (cropped, zoomed)"
    yield Explanation("zoomed", pair.share(cut(pair.golden, best)), 1, text, values={"part": best})


def _soft(pair: FramePair) -> Iterator[Explanation]:
    """Yield blur, sharpening and lost resolution, each mixed with the golden by a fitted part."""
    golden = pair.golden
    kinds: list[tuple[str, str, Callable[[], Array]]] = [
        ("blur", f"blurred (softened), about {sigma:g} pixels", partial(_blurred, golden, sigma))
        for sigma in (0.6, 1.0, 1.6, 2.5, 4.0)
    ]
    for side in (2, 3, 4, 8):
        half = "half" if side == 2 else "low"
        kinds.append(("resized", f"resized to 1/{side} and back ({half} resolution)", partial(_smooth, golden, side)))
        text = f"blocks of {side}x{side} pixels (resized to 1/{side} and back by nearest)"
        kinds.append(("blocks" if side > 3 else "resized", text, partial(box, golden, side)))
    for side in (2, 4, 8):
        text = f"every {side}th pixel is repeated (resized to 1/{side} and back by nearest)"
        kinds.append(("resized", text, partial(_repeated, golden, side)))
    for factor in FACTORS:
        for linear in (False, True):
            way = "linear" if linear else "nearest"
            text = f"resized to {factor:.2g} of its sides and back by {way} (resolution lost)"
            kinds.append(("resized", text, partial(resampled, golden, factor, linear=linear)))
    kinds.append(("blocks", "blocks of 16x16 pixels", partial(box, golden, 16)))
    for code, text, make in kinds:
        step = make() - golden
        (part,) = pair.solve(step)
        if part <= -0.05 and code == "blur":
            yield Explanation("sharpened", pair.share(golden + part * step), 2, f"sharpened by {-part:.2f}")
        elif part > 0.05:
            share = pair.share(golden + min(part, 1.2) * step)
            mixed = "" if part > 0.9 else f", mixed with the golden by {part:.0%}"
            yield Explanation(code, share, 1, f"the picture is {text}{mixed}" if code != "blocks" else f"{text}{mixed}")


def _chroma(pair: FramePair) -> Iterator[Explanation]:
    """Yield colour at a lower resolution than brightness, and colour shifted against brightness."""
    golden = pair.golden
    luma = (golden @ LUMA_601)[..., None]
    chroma = golden - luma
    for side in (2, 4, 8):
        for spread in (box, _smooth, _repeated):
            step = spread(chroma, side) - chroma
            (part,) = pair.solve(step)
            if part > 0.3:
                text = f"colour is stored at 1/{side} of the resolution (chroma subsampling)"
                yield Explanation("chroma_subsampling", pair.share(golden + min(part, 1.1) * step), 1, text)
    for down, across in ((0, 1), (1, 0), (1, 1), (0, -1), (-1, 0), (-1, -1), (2, 2), (0, 2), (2, 0)):
        text = f"colour is shifted against brightness by {across:+d}, {down:+d} pixels (chroma shift)"
        yield Explanation("chroma_subsampling", pair.share(luma + _move(chroma, down, across)), 2, text)


def _coded(pair: FramePair) -> Iterator[Explanation]:
    """Fit lossy compression. Quality is searched in the top left corner of a frame, where blocks are aligned."""
    frames = np.clip(np.rint(pair.golden), 0, 255).astype(np.uint8)
    middle = len(frames) // 2
    corner, target = frames[middle, :CORNER, :CORNER], pair.candidate[middle, :CORNER, :CORNER]
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(3, len(frames))).round().astype(int))
    small = FramePair(frames[chosen], pair.candidate[chosen])
    # WebP predicts blocks from their neighbours, as video codecs do: another error than that of a plain DCT
    for coder, text, options in (
        ("JPEG", "codec loss, blocks of a DCT; like JPEG", JPEG),
        ("WEBP", "codec loss with prediction inside a frame; like WebP", WEBP),
    ):

        def error(choice: dict[str, int], coder: str = coder) -> float:
            return float(np.square(target - _compressed(corner, coder, choice)).mean())

        best = min(options, key=error)
        share = small.share(np.stack([_compressed(frame, coder, best) for frame in frames[chosen]]))
        sentence = f"lossy compression ({text} of quality {best['quality']})"
        yield Explanation("codec", share, 1, sentence, values={"quality": best["quality"]})


def _compressed(frame: npt.NDArray[np.uint8], coder: str, options: dict[str, int]) -> Array:
    """Compress and decompress a frame [H, W, 3] with one of Pillow's coders."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, coder, **options)
    return np.asarray(Image.open(file).convert("RGB")).astype(np.float32)


def _tiles(pair: FramePair) -> Iterator[Explanation]:
    """Yield grids whose tiles are in each other's places."""
    chosen = np.unique(np.linspace(0, len(pair.golden) - 1, min(5, len(pair.golden))).round().astype(int))
    golden, candidate = pair.golden[chosen], pair.candidate[chosen]
    _, height, width, _ = golden.shape
    for rows, columns in GRIDS:
        tall, wide = height // rows, width // columns
        if min(tall, wide) < 8:
            continue
        places = [(row * tall, column * wide) for row in range(rows) for column in range(columns)]
        cut = [(golden[:, y : y + tall, x : x + wide], candidate[:, y : y + tall, x : x + wide]) for y, x in places]
        error = float(np.square(candidate - golden).sum())
        costs = np.array([[float(np.square(shown - source).sum()) for source, _ in cut] for _, shown in cut])
        nearest = costs.argmin(axis=1)
        moved = int((nearest != np.arange(len(cut))).sum())
        if moved and len(set(nearest.tolist())) == len(cut) and error > 0:
            share = 1 - float(costs.min(axis=1).sum()) / error
            text = f"{moved} tiles of a {rows}x{columns} grid are in each other's places (tiles exchanged)"
            yield Explanation("tiles_exchanged", share, 1, text)
