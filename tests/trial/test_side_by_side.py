"""A candidate is safe only if it understands the prompt and shows the same video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import make_limit, make_limits

from harness.errors import GoldenError
from harness.frames.clip import Clip, write_clip
from harness.records.generation import Trace
from harness.records.identity import FieldChange
from harness.records.limits import LimitFile
from harness.session.similarity import require_near
from harness.trial.side_by_side import hold_clips, hold_texts
from harness.trial.trying import _experts_changed


def trace(*sketch: float) -> Trace:
    return Trace(steps=(), text_embedding_sketch=sketch)


def limits(metric: str, limit: float, direction: str = "higher_is_better") -> LimitFile:
    return make_limits(limits=(make_limit(limit, metric, direction=direction),))


@pytest.mark.parametrize(
    ("then", "kind"),
    [
        (trace(1.0, 0.0, 0.0), ""),
        (trace(1.0, 0.01, 0.0), ""),
        (trace(1.0, 0.1, 0.0), "doubts"),
        (trace(0.0, 1.0, 0.0), "bad"),
        (trace(1.0, 0.0), "bad"),
        (trace(), "doubts"),
    ],
)
def test_the_text_embedding(then: Trace, kind: str) -> None:
    sides = hold_texts(trace(1.0, 0.0, 0.0), then, None)
    assert (bool(sides.bad), bool(sides.doubts)) == (kind == "bad", kind == "doubts")


def test_the_limit_of_the_case_counts() -> None:
    now, then = trace(1.0, 0.0, 0.0), trace(1.0, 0.1, 0.0)
    assert hold_texts(now, then, limits("trace_text_error", 0.2, "lower_is_better")).doubts == ()


def video(seed: int = 0, add: int = 0) -> Clip:
    coarse = np.random.default_rng(seed).integers(20, 220, (3, 4, 6, 3), dtype=np.uint8)
    frames = np.kron(coarse, np.ones((1, 16, 16, 1), np.uint8))
    return Clip(np.clip(frames.astype(int) + add, 0, 255).astype(np.uint8))


def test_another_video_is_unsafe_whatever_changed() -> None:
    for experts_changed in (True, False):
        sides = hold_clips(video(0), video(1), None, experts_changed=experts_changed)
        assert "another video than now (mean ssim 0." in sides.bad[0]


def test_other_frames_of_the_same_video() -> None:
    strict, wide = limits("mad", 1.0, "lower_is_better"), limits("mad", 9.0, "lower_is_better")
    assert hold_clips(video(), video(add=3), strict, experts_changed=True).bad == ()
    outside = hold_clips(video(), video(add=3), strict, experts_changed=False)
    assert outside.bad == ("the clips differ: mad is 3, outside its limit of 1",)
    inside = hold_clips(video(), video(add=3), wide, experts_changed=False)
    assert (inside.bad, inside.doubts) == ((), ())
    assert inside.distance.startswith("ssim 0.9")
    assert hold_clips(video(), video(add=3), None, experts_changed=False).doubts
    assert hold_clips(video(), video(), None, experts_changed=False).distance == "every frame is equal"


def test_another_shape_is_unsafe() -> None:
    cut = Clip(video().frames[:2])
    assert "shape" in hold_clips(video(), cut, None, experts_changed=True).bad[0]


@pytest.mark.parametrize(
    ("field", "changed"),
    [("transformer_2", True), ("quantization.transformer", True), ("text_encoder", False), ("vae/config.json", False)],
)
def test_which_changes_move_the_experts(field: str, changed: bool) -> None:
    row = FieldChange(identity_class="weights", field=field, golden="a", run="b")
    assert _experts_changed((row,)) is changed
    assert not _experts_changed((row.model_copy(update={"identity_class": "env"}),))


def test_accepted_goldens_that_show_different_videos_are_refused(tmp_path: Path) -> None:
    clips = {}
    for digest, clip in (("a" * 64, video(0)), ("b" * 64, video(0, add=3)), ("c" * 64, video(1))):
        path = tmp_path / f"{digest}.safetensors"
        write_clip(path, clip, codec="raw")
        clips[digest] = path
    require_near({digest: clips[digest] for digest in ("a" * 64, "b" * 64)}, "cases/a.yaml:1")
    with pytest.raises(GoldenError, match="aaaaaaaaaaaaaaaa and cccccccccccccccc show different videos") as error:
        require_near(clips, "cases/a.yaml:1")
    assert "--over" in str(error.value)
