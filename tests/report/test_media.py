"""Contact sheets and stills hold the frames that they say, read back by Pillow."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from harness.records.frames import Tile
from harness.report import media as sprites
from harness.report.load import load_run
from harness.report.media import amplified_difference, crop, preview_size, write_media, write_sheets
from harness.report.render import render_run


def cell(sheet: sprites.Sheet, folder: Path, frame: int) -> np.ndarray:
    picture = np.asarray(Image.open(folder / sheet.files[frame // sheet.per_sheet].rpartition("/")[2]).convert("RGB"))
    place = frame % sheet.per_sheet
    top, left = place // sheet.columns * sheet.cell_height, place % sheet.columns * sheet.cell_width
    return picture[top : top + sheet.cell_height, left : left + sheet.cell_width]


def test_a_small_clip_is_kept_without_loss_across_sheets(make: ModuleType, tmp_path: Path) -> None:
    frames = make.drawn_clip(sprites.FRAMES_PER_SHEET + 3, 20, 30)
    sheet = write_sheets(frames, tmp_path, "golden", "media")
    assert sheet.lossless
    assert len(sheet.files) == 2
    assert all(np.array_equal(cell(sheet, tmp_path, index), frames[index]) for index in range(len(frames)))


def test_a_large_clip_is_previewed_and_its_key_frames_are_exact(make: ModuleType, tmp_path: Path) -> None:
    golden = make.drawn_clip(9, 480, 832)
    candidate = make.broken_clip(golden)
    make.write_case(tmp_path / "run", make.measured_record("big", golden, candidate), golden, candidate)
    entry = load_run(tmp_path / "run").entries[0]
    media = write_media(entry, tmp_path / "out")
    assert [side.name for side in media.sides] == ["golden", "candidate"]
    assert media.start == 8
    for side, frames in zip(media.sides, (golden, candidate), strict=True):
        assert not side.sheet.lossless
        assert {0, 4, 8} <= side.stills.keys()
        for frame, file in side.stills.items():
            kept = np.asarray(Image.open(tmp_path / "out" / file.removeprefix("../")).convert("RGB"))
            assert np.array_equal(kept, frames[frame])
        shown = cell(side.sheet, tmp_path / "out" / "media" / "big", 2).astype(float)
        wanted = Image.fromarray(frames[2]).resize((side.sheet.cell_width, side.sheet.cell_height))
        assert np.abs(shown - np.asarray(wanted)).mean() < 6


def test_bit_exact_sides_share_their_sheet(make: ModuleType, tmp_path: Path) -> None:
    clip = make.drawn_clip(3)
    make.write_case(tmp_path / "run", make.measured_record("same", clip, clip), clip, clip)
    media = write_media(load_run(tmp_path / "run").entries[0], tmp_path / "out")
    assert media.sides[0].sheet == media.sides[1].sheet
    assert media.tile is None


def test_shapes_that_differ_are_named(make: ModuleType, tmp_path: Path) -> None:
    make.write_case(tmp_path / "run", make.record("short"), make.drawn_clip(5), make.drawn_clip(4))
    media = write_media(load_run(tmp_path / "run").entries[0], tmp_path / "out")
    assert [side.name for side in media.sides] == ["candidate"]
    assert "different shapes" in media.problems[0]


def test_a_clip_that_was_not_measured_is_not_shown(make: ModuleType, tmp_path: Path) -> None:
    golden = make.drawn_clip(3)
    found = make.measured_record("x", golden, make.broken_clip(golden, 1))
    make.write_case(tmp_path / "run", found, make.drawn_clip(3, hue=50), make.broken_clip(golden, 1))
    media = write_media(load_run(tmp_path / "run").entries[0], tmp_path / "out")
    assert [side.name for side in media.sides] == ["candidate"]
    assert "not the clip that was measured" in media.problems[0]


def test_crop_stays_inside_the_picture() -> None:
    frame = np.arange(40 * 60 * 3, dtype=np.int64).astype(np.uint8).reshape(40, 60, 3)
    corner = crop(frame, Tile(x=48, y=32, width=16, height=16))
    assert np.array_equal(corner, frame[24:40, 40:60])
    assert crop(frame, Tile(x=500, y=500, width=8, height=8)).shape == frame.shape


def test_the_difference_is_amplified_without_clipping() -> None:
    dark = np.full((4, 4, 3), 10, dtype=np.uint8)
    light = dark.copy()
    light[1, 1] = 40
    picture, gain = amplified_difference(dark, light)
    assert gain == 8
    assert picture.max() == 240
    assert not amplified_difference(light, light)[0].any()
    assert amplified_difference(light, light)[1] == 1


def test_preview_cells_end_on_block_edges() -> None:
    for width, height in ((1280, 720), (832, 480), (640, 384), (97, 3)):
        cell_width, cell_height = preview_size(width, height)
        assert cell_width % 16 == 0
        assert cell_height % 16 == 0
        assert cell_width <= 480


def test_the_picture_of_the_request_is_shown_beside_the_frames(make: ModuleType, tmp_path: Path) -> None:
    clip = make.drawn_clip(5)
    folder = make.write_case(tmp_path / "run", make.measured_record("given", clip, clip), clip, clip)
    Image.fromarray(clip[0]).save(folder / "image.png")
    media = write_media(load_run(tmp_path / "run").entries[0], tmp_path / "out")
    assert set(media.given) == {"image"}
    kept = np.asarray(Image.open(tmp_path / "out" / media.given["image"].removeprefix("../")).convert("RGB"))
    assert np.array_equal(kept, clip[0])
    page = render_run(tmp_path / "run", tmp_path / "report").parent / "cases" / "given.html"
    assert "image of the request: first frame" in page.read_text(encoding="utf-8")


def test_a_picture_that_is_none_is_a_problem_and_no_end_of_the_report(make: ModuleType, tmp_path: Path) -> None:
    clip = make.drawn_clip(5)
    folder = make.write_case(tmp_path / "run", make.measured_record("given", clip, clip), clip, clip)
    (folder / "image.png").write_bytes(b"<script>alert(1)</script>")
    media = write_media(load_run(tmp_path / "run").entries[0], tmp_path / "out")
    assert not media.given
    assert any("the request's image cannot be shown" in problem for problem in media.problems)
