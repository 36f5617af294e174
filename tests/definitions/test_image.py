"""Pictures of a request: what is read, what is refused and in which words, and what the request becomes."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.definitions.case import Case
from harness.definitions.checks import check_case
from harness.definitions.image import PictureError, decode, read_picture
from harness.definitions.loading import load_cases
from harness.definitions.request import request_of
from harness.definitions.resolving import require_resolved
from harness.errors import InvalidCaseError

WIDTH, HEIGHT = 96, 64


def picture(size: tuple[int, int] = (WIDTH, HEIGHT), mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG")])
def test_a_picture_of_the_videos_size_keeps_every_pixel(mode: str, kind: str) -> None:
    image = picture(mode=mode)
    np.testing.assert_array_equal(
        np.asarray(decode(encoded(image, kind), WIDTH, HEIGHT)), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_jpeg_and_webp_are_read(kind: str) -> None:
    assert decode(encoded(picture(), kind), WIDTH, HEIGHT).size == (WIDTH, HEIGHT)


def test_another_size_is_resized_with_lanczos() -> None:
    large = picture((200, 134))
    made = np.asarray(decode(encoded(large), WIDTH, HEIGHT))
    expected = np.asarray(large.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(made, expected)


def test_orientation_of_a_camera_is_applied() -> None:
    turned = picture((HEIGHT, WIDTH))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    made = np.asarray(decode(encoded(turned, exif=exif), WIDTH, HEIGHT))
    np.testing.assert_array_equal(made, np.rot90(np.asarray(turned), -1))


def transparent() -> bytes:
    image = picture(mode="RGBA")
    image.putpixel((3, 3), (0, 0, 0, 10))
    return encoded(image)


def animated(kind: str) -> bytes:
    return encoded(picture(), kind, save_all=True, append_images=[picture(seed=1)])


REFUSED = {
    "wrong aspect": (lambda: encoded(picture((64, 96))), "aspect ratios differ"),
    "animated PNG": (lambda: animated("PNG"), "animated"),
    "animated WebP": (lambda: animated("WEBP"), "animated"),
    "GIF": (lambda: encoded(picture(), "GIF"), "is a GIF"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "markup"),
    "LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
    "pickle": (lambda: b"\x80\x04\x95", "pickle"),
    "truncated": (lambda: encoded(picture())[:-300], "damaged"),
    "garbage after the magic": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(200), "damaged"),
    "16 bit": (lambda: encoded(Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16))), "colour mode"),
    "CMYK": (lambda: encoded(picture(mode="CMYK"), "JPEG"), "colour mode"),
    "transparent": (transparent, "transparent"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_that_is_not_meant_is_refused(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(PictureError, match=words):
        decode(make(), WIDTH, HEIGHT)


def test_a_small_file_that_unpacks_to_billions_of_pixels_is_refused_before_it_is_decoded() -> None:
    header = bytearray(encoded(picture()))
    header[16:24] = (100_000).to_bytes(4, "big") * 2
    with pytest.raises(PictureError, match=r"pixels|damaged"):
        decode(bytes(header), WIDTH, HEIGHT)
    flat = Image.new("L", (9000, 9000))
    with pytest.raises(PictureError, match="9000x9000 pixels"):
        decode(encoded(flat), WIDTH, HEIGHT)


def test_only_regular_files_of_a_bearable_size_are_read(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="cannot be read"):
        read_picture(tmp_path / "absent.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(PictureError, match="is empty"):
        read_picture(tmp_path / "empty.png")
    with pytest.raises(PictureError, match="no regular file"):
        read_picture(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PictureError, match="no regular file"):
        read_picture(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(PictureError, match="at most"):
        read_picture(tmp_path / "huge.png")


def case_file(root: Path, image: str, last: str = "") -> Path:
    root.joinpath("model").mkdir(exist_ok=True)
    path = root / "cases.yaml"
    path.write_text(
        "cases:\n  one:\n    runners: [cpu]\n    model: {path: ./model}\n    sampling:\n"
        "      {prompt: a, width: 96, height: 64, num_frames: 17, num_inference_steps: 2, guidance_scale: 1,\n"
        f"       image: {image}{', last_image: ' + last if last else ''}}}\n"
    )
    return path


def load(root: Path, image: str, last: str = "") -> Case:
    (located,) = load_cases([case_file(root, image, last)], root, runners=["cpu"])
    return located.case


def test_a_request_names_its_picture_by_content(tmp_path: Path) -> None:
    data = encoded(picture())
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(data)
    first, second = (load(tmp_path, f"{{path: ./{name}}}") for name in ("a.png", "b.png"))
    wanted = hashlib.sha256(data).hexdigest()
    assert request_of(first)["sampling.image.sha256"] == wanted
    assert request_of(first) == request_of(second)
    (tmp_path / "a.png").write_bytes(encoded(picture(seed=1)))
    assert request_of(load(tmp_path, "{path: ./a.png}")) != request_of(first)


def test_a_request_without_a_picture_is_what_it_was(tmp_path: Path) -> None:
    assert not [name for name in request_of(load(tmp_path, "null")) if "image" in name]


def test_two_pictures_are_told_apart(tmp_path: Path) -> None:
    for seed, name in enumerate(("a.png", "b.png")):
        (tmp_path / name).write_bytes(encoded(picture(seed=seed)))
    case = load(tmp_path, "{path: ./a.png}", "{path: ./b.png}")
    request = request_of(case)
    assert request["sampling.image.sha256"] != request["sampling.last_image.sha256"]


COMMIT = "a" * 40
WRONG = {
    "absent": ("{path: ./absent.png}", "absent.png cannot be read"),
    "outside": ("{path: ./../x.png}", "leads out of the repository"),
    "absolute": ("{path: /etc/passwd}", "leads out of the repository"),
    "not a picture": ("{path: ./cases.yaml}", "no picture"),
    "another picture": (f"{{path: ./a.png, sha256: {'f' * 64}}}", "it is another picture"),
    "revision of a file": (f"{{path: ./a.png, revision: {COMMIT}}}", "has no revision"),
    "hub without a commit": ("{path: owner/name, file: a.png}", "needs `revision`"),
    "hub without a digest": (f"{{path: owner/name, file: a.png, revision: {COMMIT}}}", "needs `sha256`"),
    "hub without a file": (f"{{path: owner/name, revision: {COMMIT}, sha256: {'f' * 64}}}", "needs `file`"),
    "hub absolute": (f"{{path: owner/name, file: /a, revision: {COMMIT}, sha256: {'f' * 64}}}", "leads out"),
    "hub above": (f"{{path: owner/name, file: ../a, revision: {COMMIT}, sha256: {'f' * 64}}}", "leads out"),
    "neither": ("{path: just-a-word}", "neither ./file nor owner/name"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_picture_is_told_with_its_line(name: str, tmp_path: Path) -> None:
    image, words = WRONG[name]
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    with pytest.raises(InvalidCaseError, match=words) as caught:
        load(tmp_path, image)
    assert ":7" in str(caught.value)
    assert "sampling.image" in str(caught.value)


def test_a_link_out_of_the_repository_is_not_followed(tmp_path: Path) -> None:
    inside = tmp_path / "repository"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(picture()))
    (inside / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InvalidCaseError, match="leads out of the repository"):
        load(inside, "{path: ./a.png}")


def test_a_last_picture_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    with pytest.raises(InvalidCaseError, match="is given beside `image`"):
        load(tmp_path, "null", "{path: ./a.png}")


def test_a_picture_at_no_commit_is_collected_and_does_not_run(tmp_path: Path) -> None:
    case = load(tmp_path, f"{{path: owner/name, file: a.png, revision: unresolved, sha256: {'f' * 64}}}")
    with pytest.raises(InvalidCaseError, match=r"image owner/name/a\.png"):
        require_resolved(case)


@pytest.mark.parametrize(
    ("backend", "taken"),
    [("diffusers", True), ("command", True), ("sglang", True), ("openai-video", False)],
)
def test_a_backend_that_hands_no_picture_on_refuses_it(tmp_path: Path, backend: str, taken: bool) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    case = load(tmp_path, "{path: ./a.png}").model_copy(update={"backend": backend})
    findings = [text for place, text in check_case(case, root=tmp_path, runners=["cpu"]) if place[0] == "sampling"]
    assert findings == (
        [] if taken else [f"backend {backend} does not hand pictures on yet; `diffusers`, `sglang` and `command` do"]
    )


@pytest.mark.parametrize(("backend", "refused"), [("diffusers", False), ("sglang", True)])
def test_a_last_frame_is_refused_where_the_runtime_reads_none(tmp_path: Path, backend: str, refused: bool) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    case = load(tmp_path, "{path: ./a.png}", "{path: ./a.png}").model_copy(update={"backend": backend})
    findings = [text for place, text in check_case(case, root=tmp_path, runners=["cpu"]) if place[0] == "sampling"]
    assert [("takes a first frame only" in text) for text in findings] == [True] * refused
