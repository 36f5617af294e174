"""Peers' rules on the outputs of a tiny model, and each rule as one number: 1 is its own limit, more is worse."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.peers import rules_without_weights
from benchmarks.peers.diffusers import Diffusers
from benchmarks.peers.fastvideo import FastVideo
from benchmarks.peers.model_connect import ModelConnect
from benchmarks.peers.sglang_publishing import SglangPublishing
from benchmarks.peers.sglang_video import SglangVideo
from benchmarks.peers.vllm_omni import VllmOmni
from benchmarks.power.result import PeerSaid
from harness.frames.clip import Clip

LEAST_SIDE = 161
"""Pixels a side that MS-SSIM needs; smaller frames are enlarged for it, by repeating pixels."""


def apply_peers(golden: Clip, candidate: Clip) -> dict[str, PeerSaid]:
    """Every peer's answer; a rule whose library is not installed is left out."""
    said: dict[str, PeerSaid] = {}
    for rule in rules_without_weights():
        pair = (golden, candidate)
        if isinstance(rule, FastVideo):
            pair = (enlarged(golden), enlarged(candidate))
        try:
            result = rule.judge(*pair)
        except ImportError:
            continue
        measured = {name: float(np.nan_to_num(value, posinf=1e9)) for name, value in result.measured.items()}
        said[rule.name] = PeerSaid(passed=result.passed, measured=measured)
    return said


def enlarged(clip: Clip) -> Clip:
    """The clip with every pixel repeated in both directions, as often as ``LEAST_SIDE`` takes."""
    times = -(-LEAST_SIDE // min(clip.shape[1:3]))
    return Clip(clip.frames.repeat(times, axis=1).repeat(times, axis=2)) if times > 1 else clip


def severity(rule: str, answer: PeerSaid) -> float:
    """How far a rule's worst quantity is on the way from perfect (0) to its limit (1) and beyond.

    Decibels count as amplitudes. A rule of checks without a scale is 0 or infinite.
    """
    m: Mapping[str, float] = answer.measured
    if rule == SglangVideo().name:
        detector = SglangVideo()
        return max(_below(m["ssim"], detector.ssim), _decibel(m["psnr"], detector.psnr), m["mad"] / detector.mad)
    if rule == SglangPublishing().name:
        two = SglangPublishing()
        return min(_below(m["ssim"], two.ssim), m["mad"] / two.mad)
    if rule == FastVideo().name:
        return _below(m["ms_ssim"], FastVideo().limit)
    if rule == VllmOmni().name:
        return max(_below(m["ssim"], VllmOmni().ssim), _decibel(m["psnr"], VllmOmni().psnr))
    if rule == Diffusers().name:
        return m["max_abs_difference"] / Diffusers().limit
    if rule == ModelConnect().name:
        return 0.0 if answer.passed else float("inf")
    raise ValueError(f"no scale for {rule!r}")


def _below(value: float, limit: float) -> float:
    return (1.0 - value) / (1.0 - limit)


def _decibel(value: float, limit: float) -> float:
    return float(10.0 ** ((limit - value) / 20.0))
