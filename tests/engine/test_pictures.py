"""Pictures on their way to the engine, and in the lock."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from builders import make_case
from PIL import Image

from harness.definitions.case import Case
from harness.definitions.checks import with_digests
from harness.engine.pictures import FOLDER, hand_over, pictures_of, split
from harness.engine.resolve import resolve_case
from harness.engine.stamps import stamps_of
from harness.errors import InvalidCaseError
from harness.inspector.lock import differences, make_lock

TINY = Path(__file__).parents[2] / "tiny" / "weights"


def case_in(root: Path, seed: int = 0) -> Case:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "a.png")
    if not (root / "model").exists():
        (root / "model").symlink_to(TINY)
    return with_digests(make_case(id="a", sampling={"image": {"path": "./a.png"}, "num_frames": 17}), root)


def test_the_engine_reads_what_was_checked_and_not_what_the_file_became(tmp_path: Path) -> None:
    case, workdir = case_in(tmp_path), tmp_path / "work"
    folders, files = split(resolve_case(case, tmp_path))
    assert (set(folders), set(files)) == ({"model"}, {"image"})
    wanted = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    hand_over(case, files, workdir)
    assert [path.name for path in (workdir / FOLDER).iterdir()] == [case.sampling.image.sha256]  # type: ignore[union-attr]
    (tmp_path / "a.png").write_bytes(b"changed")
    given = pictures_of(case, {}, workdir)
    np.testing.assert_array_equal(np.asarray(given["image"]), wanted)


def test_a_picture_is_no_file_of_the_checkpoint(tmp_path: Path) -> None:
    paths = resolve_case(case_in(tmp_path), tmp_path)
    assert [name.partition("=")[0] for name in stamps_of(paths)] == ["model"]
    assert stamps_of(paths) == stamps_of(split(paths)[0])


def test_a_picture_that_changed_before_the_run_is_refused(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    case_in(tmp_path, seed=1)
    with pytest.raises(InvalidCaseError, match="has sha256"):
        hand_over(case, split(resolve_case(case, tmp_path))[1], tmp_path / "work")


def test_a_picture_that_went_away_is_named(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(InvalidCaseError, match=r"there is no picture \./a\.png"):
        resolve_case(case, tmp_path)
    with pytest.raises(InvalidCaseError, match="was not handed to the engine"):
        pictures_of(case, {}, tmp_path / "work")


def test_the_lock_holds_the_picture_and_sees_another_one(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    lock, left = make_lock([case], tmp_path)
    assert not left
    assert lock.cases["a"]["sampling.image"].digests == {"./a.png": case.sampling.image.sha256}  # type: ignore[union-attr]
    assert not differences(lock, lock, [case])
    other = case_in(tmp_path, seed=1)
    now, _ = make_lock([other], tmp_path)
    assert [str(one) for one in differences(lock, now, [other])] == [
        "a: sampling.image: ./a.png has another digest than the lock (or is new, or gone)"
    ]
    without = case.model_copy(update={"sampling": case.sampling.model_copy(update={"image": None})})
    (gone,) = differences(lock, make_lock([without], tmp_path)[0], [without])
    assert "names no such picture" in str(gone)


def test_a_copy_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture at all")
    case = with_digest(case, hashlib.sha256(b"no picture at all").hexdigest())
    with pytest.raises(InvalidCaseError, match=r"sampling\.image: \./a\.png") as caught:
        pictures_of(case, {"image": tmp_path / "a.png"}, tmp_path / "work")
    assert caught.value.remedy == "replace the picture in the case"


def test_a_picture_that_goes_away_before_it_is_handed_over_is_named(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    with pytest.raises(InvalidCaseError, match="cannot be read") as caught:
        hand_over(case, {"image": tmp_path / "absent.png"}, tmp_path / "work")
    assert (caught.value.place, caught.value.remedy) == ("a", "correct the path, or restore it")
    hand_over(case, {}, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def with_digest(case: Case, sha256: str) -> Case:
    image = case.sampling.image
    assert image is not None
    sampling = case.sampling.model_copy(update={"image": image.model_copy(update={"sha256": sha256})})
    return case.model_copy(update={"sampling": sampling})
