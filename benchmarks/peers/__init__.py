"""Other projects' pass rules as named baselines, written anew from how they are described, to compare with.

Every rule sees the raw frames, before any video codec: more than the peers that decode an mp4 have to go on.
"""

from __future__ import annotations

from benchmarks.peers.base import PeerRule
from benchmarks.peers.diffusers import Diffusers
from benchmarks.peers.fastvideo import FastVideo
from benchmarks.peers.model_connect import ModelConnect
from benchmarks.peers.sglang_publishing import SglangPublishing
from benchmarks.peers.sglang_video import SglangVideo
from benchmarks.peers.vllm_omni import VllmOmni


def rules_without_weights() -> tuple[PeerRule, ...]:
    """The rules that can be applied without downloading a network (TensorRT-LLM's needs LPIPS)."""
    return (SglangVideo(), SglangPublishing(), FastVideo(), VllmOmni(), Diffusers(), ModelConnect())
