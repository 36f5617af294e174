"""The fused kernels for a GPU: every statistic of a frame pair, read from bytes, nothing large written.

As in `harness.frames.kernels.numba_rows` rows stay interleaved (R G B R G B ...), a lane is one value of a row, the
window's sums run down the rows, and they are exact integers; SSIM rounds only in its last division. Where a row is read
again (by the six neighbours of a window, or as it leaves it) it comes out of the first-level cache. Programs work on
equal strips and mask what lies outside; `harness.frames.kernels.triton_path` joins a short rest to its neighbour.

Importing this needs Triton, which CUDA builds of torch bring along; ``triton_path.why_not`` asks first.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# Triton reads the annotations of a kernel's arguments as its own: only tl.constexpr may stand there.
from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

SIZES = ["height", "length", "strips", "columns"]
"""Sizes of a clip: compiled once for all of them."""


@triton.jit
def _across(x, y, at, inside):
    """Sums over seven pixels of one channel (stride 3) from ``at``: x, y, x * x + y * y, x * y."""
    a = tl.load(x + at, mask=inside, other=0).to(tl.int32)
    b = tl.load(y + at, mask=inside, other=0).to(tl.int32)
    sx = a
    sy = b
    ss = a * a + b * b
    sp = a * b
    for k in tl.static_range(1, 7):
        a = tl.load(x + at + 3 * k, mask=inside, other=0).to(tl.int32)
        b = tl.load(y + at + 3 * k, mask=inside, other=0).to(tl.int32)
        sx += a
        sy += b
        ss += a * a + b * b
        sp += a * b
    return sx, sy, ss, sp


@triton.jit(do_not_specialize=SIZES)
def ssim_rows(
    golden,
    candidate,
    out,
    height,
    length,
    strips,
    columns,
    tile: tl.constexpr,
    block: tl.constexpr,
):
    """SSIM summed down each strip of ``tile`` rows of window centres: float32 [n, strips, length - 18].

    One program a frame, strip and ``block`` lanes. Integers stay below 2**31: 255 * 49 squared, twice, is 3.2e8.
    """
    program = tl.program_id(0)
    lane = (program % columns) * block + tl.arange(0, block)
    strip = (program // columns) % strips
    frame = (program // (columns * strips)).to(tl.int64)
    inside = lane < length - 18
    x = golden + frame * height * length
    y = candidate + frame * height * length
    first = strip * tile
    sx = tl.zeros([block], tl.int32)
    sy = tl.zeros([block], tl.int32)
    ss = tl.zeros([block], tl.int32)
    sp = tl.zeros([block], tl.int32)
    for step in range(6):
        row = first + step
        ax, ay, az, ap = _across(x, y, row * length + lane, inside)
        sx += ax
        sy += ay
        ss += az
        sp += ap
    c1: tl.constexpr = (0.01 * 255.0) * (0.01 * 255.0) * 49.0 * 49.0
    c2: tl.constexpr = (0.03 * 255.0) * (0.03 * 255.0) * 49.0 * 48.0
    total = tl.zeros([block], tl.float32)
    for step in range(tile):
        row = first + step
        live = inside & (row + 6 < height)
        ax, ay, az, ap = _across(x, y, (row + 6) * length + lane, live)
        sx += ax
        sy += ay
        ss += az
        sp += ap
        cross = sx * sy
        own = sx * sx + sy * sy
        covariance = (49 * sp - cross).to(tl.float32)
        variance = (49 * ss - own).to(tl.float32)
        top = (2.0 * cross.to(tl.float32) + c1) * (2.0 * covariance + c2)
        total += tl.where(live, top / ((own.to(tl.float32) + c1) * (variance + c2)), 0.0)
        ax, ay, az, ap = _across(x, y, row * length + lane, live)
        sx -= ax
        sy -= ay
        ss -= az
        sp -= ap
    tl.store(out + (frame * strips + strip) * (length - 18) + lane, total, mask=inside)


@triton.jit
def _edge(x, at, length, value, inner):
    """The 4-neighbour Laplacian where ``inner``, 0 elsewhere."""
    left = tl.load(x + at - 3, mask=inner, other=0).to(tl.int32)
    right = tl.load(x + at + 3, mask=inner, other=0).to(tl.int32)
    above = tl.load(x + at - length, mask=inner, other=0).to(tl.int32)
    below = tl.load(x + at + length, mask=inner, other=0).to(tl.int32)
    return tl.where(inner, 4 * value - left - right - above - below, 0)


@triton.jit
def _total(values):
    """Sum of a program's lanes: each fits int32, all together they need not."""
    return tl.sum(values.to(tl.int64), axis=0)


@triton.jit(do_not_specialize=[*SIZES, "lead"])
def point_rows(
    golden,
    candidate,
    out,
    height,
    length,
    strips,
    columns,
    lead,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """The ten sums of `harness.frames.kernels.tensors.Chunk.points`, int64 [n, strips, columns, 10].

    One program a frame, strip of ``rows`` rows and ``block`` lanes. ``lead``: whether a frame lies before the first.
    """
    program = tl.program_id(0)
    lane = (program % columns) * block + tl.arange(0, block)
    strip = (program // columns) % strips
    frame = (program // (columns * strips)).to(tl.int64)
    size = height * length
    x = golden + frame * size
    y = candidate + frame * size
    inside = lane < length
    within = (lane >= 3) & (lane < length - 3)
    squared = tl.zeros([block], tl.int32)
    absolute = tl.zeros([block], tl.int32)
    xx = tl.zeros([block], tl.int32)
    yy = tl.zeros([block], tl.int32)
    ex = tl.zeros([block], tl.int32)
    exx = tl.zeros([block], tl.int32)
    ey = tl.zeros([block], tl.int32)
    eyy = tl.zeros([block], tl.int32)
    mx = tl.zeros([block], tl.int32)
    my = tl.zeros([block], tl.int32)
    for step in range(rows):
        row = strip * rows + step
        at = row * length + lane
        live = inside & (row < height)
        a = tl.load(x + at, mask=live, other=0).to(tl.int32)
        b = tl.load(y + at, mask=live, other=0).to(tl.int32)
        squared += (a - b) * (a - b)
        absolute += tl.abs(a - b)
        xx += a * a
        yy += b * b
        moved = live & (frame + lead > 0)
        before = tl.load(x - size + at, mask=moved, other=0).to(tl.int32)
        mx += tl.where(moved, tl.abs(a - before), 0)
        before = tl.load(y - size + at, mask=moved, other=0).to(tl.int32)
        my += tl.where(moved, tl.abs(b - before), 0)
        inner = within & (row >= 1) & (row < height - 1)
        edge = _edge(x, at, length, a, inner)
        ex += edge
        exx += edge * edge
        edge = _edge(y, at, length, b, inner)
        ey += edge
        eyy += edge * edge
    place = out + program.to(tl.int64) * 10
    tl.store(place, _total(squared))
    tl.store(place + 1, _total(absolute))
    tl.store(place + 2, _total(xx))
    tl.store(place + 3, _total(yy))
    tl.store(place + 4, _total(ex))
    tl.store(place + 5, _total(exx))
    tl.store(place + 6, _total(ey))
    tl.store(place + 7, _total(eyy))
    tl.store(place + 8, _total(mx))
    tl.store(place + 9, _total(my))


@triton.jit(do_not_specialize=[*SIZES, "spans"])
def block_rows(
    frames,
    out,
    height,
    length,
    strips,
    columns,
    spans,
    side: tl.constexpr,
    block: tl.constexpr,
):
    """Sums of blocks ``side`` pixels square, int32 [n, strips, spans, 3]: a lane is one channel of one block."""
    program = tl.program_id(0)
    lane = (program % columns) * block + tl.arange(0, block)
    strip = (program // columns) % strips
    frame = (program // (columns * strips)).to(tl.int64)
    inside = lane < 3 * spans
    start = lane // 3 * (3 * side) + lane % 3
    x = frames + frame * height * length
    total = tl.zeros([block], tl.int32)
    for step in range(side):
        row = strip * side + step
        live = inside & (row < height)
        for k in tl.static_range(side):
            at = start + 3 * k
            total += tl.load(x + row * length + at, mask=live & (at < length), other=0).to(tl.int32)
    tl.store(out + (frame * strips + strip) * (3 * spans) + lane, total, mask=inside)
