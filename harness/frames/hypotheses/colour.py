"""Changes of colour that are the same for every pixel: range, transfer, channels, saturation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from harness.frames.hypotheses.pair import LUMA_601, Array, Explanation, FramePair

LUMA_709 = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
GAMMAS = (0.4, 0.4545, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4)
HUES = tuple(range(-175, 185, 5))
LEAST_GAIN = 0.2
"""A smaller factor leaves no picture: content was overwritten, not multiplied."""
LEVELS = (4, 8, 16, 32, 64)


def colour(pair: FramePair) -> Iterator[Explanation]:
    """Yield every change of colour, fitted."""
    golden = pair.golden
    yield from _exchanged(pair)
    yield from _fixed(pair)
    constant = np.ones((1, 1, 1, 1), np.float32)
    (offset,) = pair.solve(constant)
    share = pair.share(golden + offset)
    yield Explanation(
        "offset",
        share,
        1,
        f"every value is moved by {offset:+.1f} levels (brightness offset)",
        values={"offset": offset},
    )
    (gain,) = pair.solve(golden)
    share = pair.share(golden * (1 + gain)) if 1 + gain > LEAST_GAIN else 0.0
    yield Explanation(
        "gain", share, 1, f"every value is multiplied by {1 + gain:.3f} (gain, brightness)", values={"gain": 1 + gain}
    )
    slope, level = pair.solve(golden, constant)
    share = pair.share(golden * (1 + slope) + level) if 1 + slope > LEAST_GAIN else 0.0
    text = f"contrast: values are multiplied by {1 + slope:.3f} and moved by {level:+.1f} levels"
    yield Explanation("contrast", share, 2, text, values={"gain": 1 + slope, "offset": level})
    yield _gamma(pair)
    yield from _channels(pair)
    yield from _saturation(pair)
    yield _posterized(pair)
    yield from _dithered(pair)
    yield from _wrapped(pair)


def _exchanged(pair: FramePair) -> Iterator[Explanation]:
    """Yield the other orders of R, G and B, wholly or mixed with the golden."""
    for order in permutations(range(3)):
        if order != (0, 1, 2):
            names = "".join("RGB"[index] for index in order)
            text = f"colour channels are exchanged: RGB is shown as {names}"
            share = pair.share(pair.golden[..., list(order)])
            if share < 0.9:  # exchanged in part: mixed with the golden's own colour
                step = pair.golden[..., list(order)] - pair.golden
                (part,) = pair.solve(step)
                if 0.1 < part < 1.1 and (mixed := pair.share(pair.golden + part * step)) > share + 0.05:
                    yield Explanation("channels_exchanged", mixed, 3, f"{text} (mixed, {part:.0%})")
                    continue
            yield Explanation("channels_exchanged", share, 0, text)


def _fixed(pair: FramePair) -> Iterator[Explanation]:
    """Yield changes without a free parameter: value range, transfer function, colour matrix."""
    golden, unit = pair.golden, pair.golden / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    display = np.where(unit <= 0.0031308, unit * 12.92, 1.055 * np.maximum(unit, 1e-9) ** (1 / 2.4) - 0.055)
    rows: tuple[tuple[str, str, Array], ...] = (
        ("limited_range", "full range is written as limited range (16 to 235)", golden * (219 / 255) + 16),
        ("limited_range", "limited range (16 to 235) is expanded to full range", (golden - 16) * (255 / 219)),
        ("value_range", "values in [-1, 1] are written as [0, 1]: the lower half is clipped", golden * 2 - 255),
        ("value_range", "values in [0, 1] are taken for [-1, 1]: shown as half plus one half", golden / 2 + 127.5),
        ("inverted", "colours are inverted (255 - value)", 255 - golden),
        ("gamma", "the sRGB transfer is removed: linear light is shown (gamma)", linear * 255),
        ("gamma", "the sRGB transfer is applied twice (gamma)", display * 255),
        ("colour_matrix", "YCbCr by BT.601 is read as BT.709 (colour matrix)", _reread(golden, LUMA_601, LUMA_709)),
        ("colour_matrix", "YCbCr by BT.709 is read as BT.601 (colour matrix)", _reread(golden, LUMA_709, LUMA_601)),
    )
    for code, text, prediction in rows:
        yield Explanation(code, pair.share(np.asarray(prediction, np.float32)), 0, text)


def _reread(golden: Array, written: Array, read: Array) -> Array:
    """Convert RGB to YCbCr with the luma weights ``written``, and back with ``read``."""
    luma = golden @ written
    blue = (golden[..., 2] - luma) / (2 * (1 - written[2]))
    red = (golden[..., 0] - luma) / (2 * (1 - written[0]))
    out = np.empty_like(golden)
    out[..., 0], out[..., 2] = luma + 2 * (1 - read[0]) * red, luma + 2 * (1 - read[2]) * blue
    out[..., 1] = (luma - read[0] * out[..., 0] - read[2] * out[..., 2]) / read[1]
    return out


def _gamma(pair: FramePair) -> Explanation:
    """Fit a power of the values: coarse search over `GAMMAS` on every third pixel, then a fine search around it."""
    table = np.arange(256, dtype=np.float32) / 255
    index = np.clip(np.rint(pair.golden), 0, 255).astype(np.uint8)
    coarse = pair.golden[:: max(1, len(index) // 3), ::3, ::3], index[:: max(1, len(index) // 3), ::3, ::3]
    target = pair.candidate[:: max(1, len(index) // 3), ::3, ::3]

    def residual(power: float) -> float:
        return float(np.square(target - (255 * table**power)[coarse[1]]).mean())

    best = min(GAMMAS, key=residual)
    best = min((best * factor for factor in np.linspace(0.94, 1.06, 25)), key=residual)
    share = pair.share((255 * table**best)[index])
    return Explanation("gamma", share, 1, f"gamma: values are raised to the power {best:.2f}", values={"gamma": best})


CHANNELS = ("red", "green", "blue")
FLAT = 1.0
"""Largest standard deviation, in levels, of a channel that is lost."""


def _channels(pair: FramePair) -> Iterator[Explanation]:
    """Yield lost channels, offsets and gains per channel, and a 3x3 matrix."""
    golden, eye = pair.golden, np.eye(3, dtype=np.float32)
    flat = pair.candidate.std(axis=(0, 1, 2)) < FLAT
    if flat.any() and not flat.all():
        level = pair.candidate.mean(axis=(0, 1, 2))
        names = ", ".join(
            f"{name} {value:.0f}" for name, value, lost in zip(CHANNELS, level, flat, strict=True) if lost
        )
        text = f"a colour channel is lost: it has one value everywhere ({names})"
        constant = np.where(flat, level, golden).astype(np.float32)
        yield Explanation("channel_affine", pair.share(constant), 1, text)
    moved = pair.solve(*eye)
    text = "tint: red, green, blue are moved by " + ", ".join(f"{shift:+.1f}" for shift in moved) + " levels"
    yield Explanation("tint", pair.share(golden + moved.astype(np.float32)), 3, text)
    factors = pair.solve(*(golden * channel for channel in eye))
    if 1 + max(factors) < LEAST_GAIN:
        return
    text = "tint: red, green, blue are multiplied by " + ", ".join(f"{1 + factor:.3f}" for factor in factors)
    yield Explanation("tint", pair.share(golden * (1 + factors.astype(np.float32))), 3, text)
    both = pair.solve(*(golden * channel for channel in eye), *eye).astype(np.float32)
    text = (
        "each colour channel has its own gain and offset, as with wrong latent mean and std of the VAE (VAE statistics)"
    )
    yield Explanation("channel_affine", pair.share(golden * (1 + both[:3]) + both[3:]), 6, text)
    mixing = pair.solve(*(golden[..., [source]] * channel for source in range(3) for channel in eye), *eye).astype(
        np.float32
    )
    prediction = golden + golden @ mixing[:9].reshape(3, 3) + mixing[9:]
    yield Explanation("colour_matrix", pair.share(prediction), 12, "colours go through another 3x3 matrix")


def _saturation(pair: FramePair) -> Iterator[Explanation]:
    """Yield a factor of the colour difference to luma, and a rotation of hue in YIQ."""
    golden = pair.golden
    for luma_weights in (LUMA_601, LUMA_709):
        chroma = golden - (golden @ luma_weights)[..., None]
        (factor,) = pair.solve(chroma)
        text = "colour is lost (greyscale)" if factor < -0.97 else f"saturation is multiplied by {1 + factor:.2f}"
        share = pair.share(golden + factor * chroma)
        yield Explanation("saturation", share, 1, text, values={"saturation": 1 + factor})
    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float64)
    back, best = np.linalg.inv(yiq), (-np.inf, 0)
    thinned = golden[:: max(1, len(golden) // 3), ::3, ::3], pair.candidate[:: max(1, len(golden) // 3), ::3, ::3]

    def matrix(angle: float) -> Array:
        turn = np.radians(angle)
        rotation = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
        return np.asarray((back @ rotation @ yiq).T, np.float32)

    for angle in HUES:
        fit = -float(np.square(thinned[1] - np.clip(thinned[0] @ matrix(angle), 0, 255)).mean())
        best = max(best, (fit, angle))
    if best[1]:
        share = pair.share(golden @ matrix(best[1]))
        yield Explanation("hue", share, 1, f"hue is turned by about {best[1]} degrees", values={"degrees": best[1]})


def _wrapped(pair: FramePair) -> Iterator[Explanation]:
    """Fit an offset after which values beyond 255 start again at 0, as additions of unsigned bytes do."""
    moved = np.rint(pair.difference[pair.fit_rows]).astype(np.int64) % 256
    offset = int(np.bincount(moved.reshape(-1), minlength=256).argmax())
    prediction = np.mod(pair.golden + np.float32(offset), np.float32(256))
    over = float((pair.golden + offset >= 256).mean())
    if offset and 0.001 < over < 0.999:
        text = f"values overflow 8 bits and wrap around (golden plus {offset}, modulo 256)"
        yield Explanation("wrapped", pair.share(prediction), 1, text, values={"offset": offset})


def _dithered(pair: FramePair) -> Iterator[Explanation]:
    """Fit few levels with an ordered pattern: each place of a 2x2 or 4x4 grid has a threshold of its own."""
    golden, best = pair.golden, (-np.inf, 0)
    for levels in (8, 16, 32, 64):
        step = np.float32(255 / (levels - 1))
        for side in (2, 4):
            pattern = np.zeros(golden.shape[1:], np.float32)
            for row, column in np.ndindex(side, side):
                part = np.s_[:, row::side, column::side]
                pattern[part[1:]] = _threshold(golden[part] / step, pair.candidate[part] / step, side)
            if np.abs(pattern).max() > 0.5:
                continue  # a threshold moves a value by half a step at most: a larger pattern lies over the frames
            best = max(best, (pair.share(np.rint(golden / step + pattern[None]) * step), levels))
    if best[1]:
        text = f"values are quantized to {best[1]} levels with an ordered pattern (dither)"
        yield Explanation("quantized_levels", best[0], 2, text, values={"levels": best[1]})


def _threshold(golden: Array, candidate: Array, side: int) -> float:
    """Return the threshold that was added before rounding, in steps, at one place of a pattern of ``side`` x ``side``.

    Thresholds of such a pattern are odd multiples of 1 / (2 side^2) in the field's matrices, and multiples of it in
    all. The mean change estimates it to within a few multiples, and the nearest of these explains most.
    """
    unit, sample = 2 * side**2, np.s_[:: max(1, len(golden) // 3)]
    middle = round(float((candidate - golden).mean()) * unit)
    near = ((middle + move) / unit for move in (0, -1, 1, -2, 2, -3, 3))
    return min(near, key=lambda value: float(np.square(np.rint(golden[sample] + value) - candidate[sample]).mean()))


def _posterized(pair: FramePair) -> Explanation:
    """Fit few levels: the best of several counts and ways of rounding."""
    golden, best = pair.golden, (-np.inf, 0)
    for levels in LEVELS:
        step = 256 / levels
        coarse = 255 / (levels - 1)
        for prediction in (
            np.floor(golden / step) * step,
            np.floor(golden / step) * step + step / 2,
            np.rint(golden / coarse) * coarse,
            np.rint(golden / step) * step,
        ):
            best = max(best, (pair.share(prediction), levels))
    text = f"values are quantized to {best[1]} levels (banding, posterized)"
    return Explanation("quantized_levels", best[0], 1, text, values={"levels": best[1]})
