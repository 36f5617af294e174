"""Frames of a foreign program: every container is read exactly, names what it hides, or is refused."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_case
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from harness.definitions.case import Case
from harness.engine.backends.delivery import LOSSY, ROUNDED, container_of, read_delivery
from harness.errors import InfraError, InvalidCaseError

COUNT, HEIGHT, WIDTH = 5, 32, 48
SHAPE = (COUNT, HEIGHT, WIDTH, 3)


def case_of(count: int = COUNT) -> Case:
    return make_case(sampling={"height": HEIGHT, "width": WIDTH, "num_frames": count})


def video() -> Any:
    """A smooth picture that moves: what a codec can keep."""
    x, y = np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT)[:, None]
    frames = [np.stack([x + 0 * y, 0 * x + y, 0.5 + 0 * x * y + 0.05 * t], axis=-1) for t in range(COUNT)]
    return np.stack(frames).astype(np.float32).clip(0, 1)


def bytes_of() -> Any:
    return np.rint(video() * 255).astype(np.uint8)


def write_video(path: Path, frames: Any, codec: str = "libx264", pixels: str = "yuv420p", **options: str) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16, options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def read(tmp_path: Path, count: int = COUNT) -> Any:
    return read_delivery(tmp_path / "frames.safetensors", tmp_path / "program", case_of(count))


def npy(path: Path, frames: Any) -> None:
    np.save(path, frames)


def pngs(folder: Path, frames: Any, name: Callable[[int], str] = lambda index: f"{index:04d}.png") -> None:
    folder.mkdir(exist_ok=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name(index))


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    (tmp_path / "program").mkdir()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_floats_lose_nothing_and_show_nan_and_overshoot(tmp_path: Path, dtype: str) -> None:
    frames = video().astype(dtype)
    frames[2, 0, 0, 0], frames[3, 0, 0, 1] = np.nan, 1.5
    npy(tmp_path / "program" / "clip.npy", frames)
    delivered = read(tmp_path)
    assert (delivered.delivery.container, delivered.delivery.dtype, delivered.delivery.costs) == ("npy", dtype, "")
    assert (delivered.stats.nan, delivered.stats.first_bad_frame, delivered.stats.maximum) == (1, 2, 1.5)


def test_numpy_appends_its_own_suffix_to_the_path_it_was_given(tmp_path: Path) -> None:
    np.save(tmp_path / "frames.safetensors", bytes_of())
    assert not (tmp_path / "frames.safetensors").exists()
    delivered = read(tmp_path)
    np.testing.assert_array_equal(delivered.clip.frames, bytes_of())
    assert (delivered.delivery.dtype, delivered.delivery.costs) == ("uint8", ROUNDED)


@pytest.mark.parametrize("name", [lambda i: f"{i}.png", lambda i: f"frame_{i:03d}.PNG", lambda i: f"f-{i + 8}.png"])
def test_pngs_are_taken_in_the_order_of_their_numbers(tmp_path: Path, name: Callable[[int], str]) -> None:
    pngs(tmp_path / "program" / "out", bytes_of(), name)
    delivered = read(tmp_path)
    np.testing.assert_array_equal(delivered.clip.frames, bytes_of())
    assert (delivered.delivery.container, delivered.delivery.costs) == ("png", ROUNDED)


def test_a_folder_at_the_path_of_the_file_is_read_too(tmp_path: Path) -> None:
    pngs(tmp_path / "frames.safetensors", bytes_of())
    np.testing.assert_array_equal(read(tmp_path).clip.frames, bytes_of())


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [("mp4", "libx264", "yuv420p"), ("mkv", "libx264", "yuv444p"), ("webm", "libvpx-vp9", "yuv420p")],
)
def test_a_video_is_near_and_says_what_it_hides(tmp_path: Path, suffix: str, codec: str, pixels: str) -> None:
    write_video(tmp_path / "program" / f"video.{suffix}", bytes_of(), codec, pixels, crf="10")
    delivered = read(tmp_path)
    error = np.abs(delivered.clip.frames.astype(int) - bytes_of().astype(int))
    assert 0 < error.mean() < 4
    assert delivered.delivery.container == "video"
    assert pixels in delivered.delivery.codec
    assert delivered.delivery.costs == LOSSY.format(codec=delivered.delivery.codec.split()[0], pixels=pixels)


def test_of_several_containers_the_one_that_loses_least_is_read(tmp_path: Path) -> None:
    write_video(tmp_path / "program" / "video.mp4", bytes_of())
    pngs(tmp_path / "program", bytes_of())
    assert read(tmp_path).delivery.container == "png"
    save_file({"frames": video()}, tmp_path / "frames.safetensors")
    assert read(tmp_path).delivery.container == "safetensors"


def sound(path: Path) -> None:
    """An MP4 that holds sound and no picture."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def two_sizes(path: Path) -> None:
    """A video whose second frame is half as large; Motion JPEG states the size in each frame."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=16)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for index, size in enumerate([(WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2)]):
            data = io.BytesIO()
            Image.fromarray(bytes_of()[index]).resize(size).save(data, "JPEG")
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base = Fraction(1, 16)
            container.mux(packet)


def see_through(path: Path) -> None:
    picture = Image.fromarray(bytes_of()[0]).convert("RGBA")
    picture.putpixel((1, 1), (0, 0, 0, 254))
    picture.save(path)


class _Payload:
    def __reduce__(self) -> Any:
        return (Path("/tmp/never").touch, ())  # noqa: S108 - never run


def objects(tmp_path: Path) -> None:
    np.save(tmp_path / "program" / "a.npy", np.array([_Payload()], dtype=object), allow_pickle=True)


def pickle_file(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "program" / "a.pt").write_bytes(pickle.dumps(_Payload()))


def link(tmp_path: Path) -> None:
    np.save(tmp_path / "elsewhere.npy", bytes_of())
    (tmp_path / "program" / "a.npy").symlink_to(tmp_path / "elsewhere.npy")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda at: None, "it wrote nothing"),
        (objects, "cannot be read"),
        (pickle_file, "a.pt is a pickle, which is never loaded"),
        (link, "a.npy is a link, which is not followed"),
        (lambda at: (at / "frames.safetensors").touch(), "frames.safetensors is empty"),
        (lambda at: (at / "frames.safetensors").write_text("Error: no GPU\n"), "frames.safetensors is a text file"),
        (lambda at: (at / "frames.safetensors").mkdir(), "frames.safetensors is a folder without a file"),
        (lambda at: os.mkfifo(at / "frames.safetensors"), "frames.safetensors is no regular file"),
        (lambda at: Image.fromarray(bytes_of()[0]).save(at / "program" / "0.jpg"), "0.jpg is a JPEG"),
        (lambda at: np.savez(at / "program" / "a.npz", bytes_of()), "a.npz is a zip archive"),
        (lambda at: (at / "program" / "a.bin").write_bytes(bytes(range(200))), "a.bin begins like no format"),
        (lambda at: npy(at / "program" / "a.npy", bytes_of()[:-1]), "[4, 32, 48, 3]"),
        (lambda at: npy(at / "program" / "a.npy", video().transpose(0, 3, 1, 2)), "[5, 3, 32, 48]"),
        (lambda at: npy(at / "program" / "a.npy", video().astype(np.float64)), "float64"),
        (lambda at: pngs(at / "program", [*bytes_of(), bytes_of()[0, :16]]), "different sizes"),
        (lambda at: pngs(at / "program", bytes_of()[..., 0]), "8-bit RGB"),
        (lambda at: (at / "program" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40), "cannot be read"),
        (lambda at: (at / "program" / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom" + b"0" * 400), "cannot be read"),
        (lambda at: write_video(at / "program" / "a.mp4", bytes_of()[:-1]), "[4, 32, 48, 3]"),
        (lambda at: see_through(at / "program" / "a.png"), "it is not opaque"),
        (lambda at: save_file({"video": video()}, at / "frames.safetensors"), "holds ['video'], not one tensor"),
        (lambda at: save_file({}, at / "frames.safetensors"), "holds nothing, not one tensor"),
        (
            lambda at: (at / "frames.safetensors").write_bytes(b"\x0b" + bytes(7) + b'{"frames": 1}'),
            "the program's result cannot be read",
        ),
        (lambda at: sound(at / "program" / "a.mp4"), "it holds no video"),
        (lambda at: two_sizes(at / "program" / "a.mkv"), "frames of different sizes"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, write: Callable[[Path], Any], words: str) -> None:
    write(tmp_path)
    with pytest.raises(InfraError) as caught:
        read(tmp_path)
    assert caught.value.kind == "protocol"
    assert words in caught.value.message


def test_two_files_of_one_kind_are_not_guessed_between(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        npy(tmp_path / "program" / name, bytes_of())
    with pytest.raises(InfraError, match=r"2 npy files \(a.npy, b.npy\)"):
        read(tmp_path)


def test_opaque_pictures_with_transparency_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "program"
    for index, frame in enumerate(bytes_of()):
        Image.fromarray(frame).convert("RGBA").save(folder / f"{index}.png")
    np.testing.assert_array_equal(read(tmp_path).clip.frames, bytes_of())


def test_a_video_without_a_decoder_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "program" / "a.mp4", bytes_of())
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)  # as if PyAV were not installed
        with pytest.raises(InvalidCaseError, match=r"a video \(a\.mp4\), and no decoder") as caught:
            read(tmp_path)
    assert caught.value.remedy.startswith("pip install 'quantgate[video]'")
    assert read(tmp_path).delivery.container == "video"


def test_frames_that_are_not_as_asked_name_where_the_forms_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="it wrote nothing") as caught:
        read(tmp_path)
    assert caught.value.remedy == "", "what the program printed is in the engine's log, which the parent names"
    npy(tmp_path / "program" / "a.npy", bytes_of()[:-1])
    with pytest.raises(InfraError) as caught:
        read(tmp_path)
    assert "docs/bring-your-runtime.md" in caught.value.remedy


@given(data=st.binary(max_size=64))
def test_no_bytes_make_the_reader_of_first_bytes_fail(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    assert container_of(path) in (None, "safetensors", "npy", "png", "video")
