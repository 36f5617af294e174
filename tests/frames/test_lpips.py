"""LPIPS: the package's number with pinned weights, and never a number without."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.frames.compare import compare
from harness.frames.errors import MetricUnavailableError
from harness.frames.lpips import load_model, read_trunk

ORACLES = Path(os.environ.get("QUANTGATE_ORACLES", Path(sys.prefix) / "oracles"))
"""Packages to compare with, away from where the pipeline looks for its own; ``make setup`` fills it."""


@pytest.fixture
def stated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small safetensors file that the environment names as AlexNet's trunk, with its digest."""
    path = tmp_path / "alex.safetensors"
    save_file({"features.0.weight": torch.zeros(2, 2)}, path)
    monkeypatch.setenv("QUANTGATE_LPIPS_ALEX", str(path))
    monkeypatch.setenv("QUANTGATE_LPIPS_ALEX_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def reason(make_clip: object, side: int = 40) -> str:
    """Why ``lpips_alex`` was not computed on two clips."""
    result = compare(make_clip(1, side, 40), make_clip(1, side, 40, noise=9), ["lpips_alex"]).metrics[0]  # type: ignore[operator]
    assert result.status == "not_computed"
    return result.why


def test_the_metric_equals_the_package(tmp_path: Path) -> None:
    assert (ORACLES / "lpips").is_dir(), f"no lpips in {ORACLES}: make setup installs it there"
    script = Path(__file__).with_name("lpips_oracle.py")
    command = [sys.executable, str(script), str(ORACLES), str(tmp_path), "alex", "squeeze"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["result"]["name"] for row in rows] == ["lpips_alex", "lpips_squeeze"]
    for row in rows:
        assert row["result"]["why"] == ""
        assert row["result"]["per_frame"] == pytest.approx(row["expected"], abs=1e-6)
        assert min(row["expected"]) > 0
        assert row["result"]["implementation"].startswith("lpips package, trunk ")


def test_without_weights_it_is_not_computed(make_clip: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTGATE_LPIPS_ALEX", raising=False)
    assert "QUANTGATE_LPIPS_ALEX_SHA256" in reason(make_clip)


def test_frames_too_small_for_the_trunk_are_refused(make_clip: object) -> None:
    assert "40x31" in reason(make_clip, side=31)


def test_a_file_without_a_digest_is_refused(make_clip: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTGATE_LPIPS_ALEX", "/somewhere.safetensors")
    assert "unpinned" in reason(make_clip)


def test_weights_of_another_digest_are_refused(stated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, digest = read_trunk("alex")
    assert list(trunk) == ["features.0.weight"]
    assert digest == hashlib.sha256(stated.read_bytes()).hexdigest()
    stated.write_bytes(b"not safetensors")
    with pytest.raises(MetricUnavailableError, match=digest):
        read_trunk("alex")
    monkeypatch.setenv("QUANTGATE_LPIPS_ALEX_SHA256", hashlib.sha256(b"not safetensors").hexdigest())
    with pytest.raises(MetricUnavailableError, match="not a safetensors file"):
        read_trunk("alex")
    stated.unlink()
    with pytest.raises(MetricUnavailableError, match="cannot be read"):
        read_trunk("alex")
    os.mkfifo(stated)
    with pytest.raises(
        MetricUnavailableError, match=r"cannot be read: it is not a regular file; set QUANTGATE_LPIPS_\w+ to a file"
    ):
        read_trunk("alex")


def test_weights_that_are_no_file_of_a_sane_size_are_one_sentence(
    stated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stated.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(MetricUnavailableError, match="cannot be read: it is larger than"):
        read_trunk("alex")
    stated.unlink()
    os.mkfifo(stated)  # reading it would wait for ever
    with pytest.raises(MetricUnavailableError, match="not a regular file"):
        read_trunk("alex")


def test_weights_come_from_the_hub_at_a_stated_commit(stated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str, str]] = []

    def download(repo: str, file: str, *, revision: str) -> str:
        calls.append((repo, file, revision))
        if revision == "gone":
            raise FileNotFoundError("no such revision")
        return str(stated)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setenv("QUANTGATE_LPIPS_ALEX", "hub:owner/repo/folder/alex.safetensors@abc")
    assert list(read_trunk("alex")[0]) == ["features.0.weight"]
    assert calls == [("owner/repo", "folder/alex.safetensors", "abc")]
    monkeypatch.setenv("QUANTGATE_LPIPS_ALEX", "hub:owner/repo/alex.safetensors@gone")
    with pytest.raises(MetricUnavailableError, match="no such revision"):
        read_trunk("alex")
    monkeypatch.setenv("QUANTGATE_LPIPS_ALEX", "hub:owner/repo")
    with pytest.raises(MetricUnavailableError, match="hub:<owner>"):
        read_trunk("alex")


def test_without_the_package_the_reason_names_the_extra(
    make_clip: object, stated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert "quantgate[lpips]" in reason(make_clip)


class Trunk(torch.nn.Module):
    """Stands in for the package's AlexNet: one layer, under the package's name."""

    def __init__(self) -> None:
        super().__init__()
        self.slice1 = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))


class Package:
    """Stands in for the package."""

    class LPIPS(torch.nn.Module):
        def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
            super().__init__()
            assert pnet_rand, "the package would download the trunk"
            self.net = Trunk()


def test_a_trunk_of_another_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", Package)
    weight = torch.arange(4.0).reshape(2, 2)
    model = load_model("alex", {"features.0.weight": weight.half(), "classifier.1.weight": weight})
    assert torch.equal(model.net.slice1[0].weight, weight)
    with pytest.raises(MetricUnavailableError, match=r"no alex trunk: 1 parameters are missing.*features\.0\.weight"):
        load_model("alex", {"features.1.weight": weight})
    with pytest.raises(MetricUnavailableError, match=r"no alex trunk: .*size mismatch"):
        load_model("alex", {"features.0.weight": torch.zeros(3, 3)})
