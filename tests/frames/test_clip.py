"""Clips in memory and on disk: exact, typed errors, never pickled, never cut."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from harness.frames.clip import CODECS, Clip, Codec, encode_webp, read_clip, write_clip
from harness.frames.errors import ClipError


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 4), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((1, 0, 4, 3), np.uint8),
        [[1]],
    ],
)
def test_what_is_no_clip_is_refused(frames: object) -> None:
    with pytest.raises(ClipError):
        Clip(frames)  # type: ignore[arg-type]


def test_digest_covers_the_shape() -> None:
    data = np.arange(2 * 4 * 6 * 3, dtype=np.uint8)
    assert Clip(data.reshape(2, 4, 6, 3)) != Clip(data.reshape(2, 6, 4, 3))
    assert Clip(data.reshape(2, 4, 6, 3)) == Clip(data.reshape(2, 4, 6, 3).copy())


def test_frames_are_read_only() -> None:
    clip = Clip(np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        clip.frames[0] = 1


@settings(max_examples=30, deadline=None)
@given(
    frames=arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20), st.just(3))),
    codec=st.sampled_from(CODECS),
)
def test_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, frames: np.ndarray, codec: Codec) -> None:
    path = tmp_path_factory.mktemp("clip") / "c.safetensors"
    clip = Clip(frames)
    write_clip(path, clip, codec)
    assert np.array_equal(read_clip(path).frames, frames)


@pytest.mark.parametrize("codec", CODECS)
def test_damage_is_named(tmp_path: Path, codec: Codec, make_clip: object) -> None:
    path = tmp_path / "c.safetensors"
    clip = make_clip(2, 12, 12)  # type: ignore[operator]
    write_clip(path, clip, codec)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ClipError, match=str(path)):
        read_clip(path)
    path.write_bytes(whole[:-5] + bytes(5 * [whole[-1] ^ 255]))
    with pytest.raises(ClipError, match=str(path)):
        read_clip(path)
    path.write_bytes(b"")
    with pytest.raises(ClipError):
        read_clip(path)
    with pytest.raises(ClipError, match="cannot be read"):
        read_clip(tmp_path / "absent.safetensors")


def test_other_pixels_under_the_old_digest_are_named(tmp_path: Path, make_clip: object) -> None:
    path = tmp_path / "c.safetensors"
    clip = make_clip(2, 12, 12)  # type: ignore[operator]
    meta = {"quantgate.clip": "1", "codec": "raw", "shape": json.dumps(list(clip.shape)), "sha256": clip.digest}
    save_file({"frames": 255 - clip.frames}, path, metadata=meta)
    with pytest.raises(ClipError, match="sha256"):
        read_clip(path)


def test_missing_frame_is_named_not_skipped(tmp_path: Path, make_clip: object) -> None:
    path = tmp_path / "c.safetensors"
    clip = make_clip(3, 12, 12)  # type: ignore[operator]
    write_clip(path, clip, "webp")
    tensors = load_file(path)
    del tensors["frame.000001"]
    meta = {"quantgate.clip": "1", "codec": "webp", "shape": json.dumps(list(clip.shape)), "sha256": clip.digest}
    save_file(tensors, path, metadata=meta)
    with pytest.raises(ClipError, match="states 3 frames, it holds 2, or frames of other names; fetch it again"):
        read_clip(path)


def test_frame_of_another_size_is_named(tmp_path: Path, make_clip: object) -> None:
    path = tmp_path / "c.safetensors"
    clip = make_clip(2, 12, 12)  # type: ignore[operator]
    frames = {"frame.000000": encode_webp(clip.frames[0]), "frame.000001": encode_webp(clip.frames[1, :10])}
    meta = {"quantgate.clip": "1", "codec": "webp", "shape": json.dumps(list(clip.shape)), "sha256": clip.digest}
    save_file(frames, path, metadata=meta)
    with pytest.raises(ClipError, match="frame 1"):
        read_clip(path)


def test_a_stated_shape_that_no_memory_holds_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    frame = encode_webp(np.zeros((12, 12, 3), np.uint8))
    meta = {"quantgate.clip": "1", "codec": "webp", "shape": json.dumps([1, 2**40, 2**40, 3]), "sha256": ""}
    save_file({"frame.000000": frame}, path, metadata=meta)
    with pytest.raises(ClipError, match=r"frame 0 is \[12, 12, 3\], not"):
        read_clip(path)


def test_a_bare_container_of_a_backend_is_read(tmp_path: Path, make_clip: object) -> None:
    path = tmp_path / "c.safetensors"
    clip = make_clip(2, 12, 12)  # type: ignore[operator]
    save_file({"frames": np.array(clip.frames)}, path)
    assert read_clip(path) == clip


def test_unknown_codec_and_too_large_a_frame(tmp_path: Path, make_clip: object) -> None:
    with pytest.raises(ClipError, match="codec"):
        write_clip(tmp_path / "c", make_clip(1, 8, 8), "mp4")  # type: ignore[operator,arg-type]
    with pytest.raises(ClipError, match="raw"):
        write_clip(tmp_path / "c", Clip(np.zeros((1, 1, 16384, 3), np.uint8)), "webp")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, make_clip: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    clip = make_clip(1, 8, 8)  # type: ignore[operator]
    write_clip(path, clip)

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_clip(path, make_clip(2, 8, 8))  # type: ignore[operator]
    assert read_clip(path) == clip
    assert list(tmp_path.iterdir()) == [path]


def test_clips_are_read_and_compared_without_torch(tmp_path: Path, make_clip: object) -> None:
    path = write_clip(tmp_path / "c.safetensors", make_clip(2, 12, 12))  # type: ignore[operator]
    code = (
        "import sys; from pathlib import Path; from harness.frames.clip import read_clip, Clip;"
        "from harness.frames.compare import compare; from harness.frames.sanity import check_clip;"
        f"clip = read_clip(Path({str(path)!r})); other = Clip(255 - clip.frames);"
        "assert not compare(clip, other).bit_exact; check_clip(clip); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
