"""LPIPS: equal to the package bit by bit, and never a number without pinned weights."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.frames.compare import compare
from harness.frames.errors import MetricUnavailableError
from harness.frames.metrics import lpips as metric
from harness.frames.metrics.lpips import Lpips, lpips_distance
from harness.frames.metrics.lpips_weights import WeightSource, fetch, load_heads, load_trunk
from harness.frames.metrics.trunks import LAYERS, Net, features, parameter_names

NETS: tuple[Net, ...] = ("alex", "vgg", "squeeze")
CHANNELS = {
    "alex": [64, 192, 384, 256, 256],
    "vgg": [64, 128, 256, 512, 512],
    "squeeze": [64, 128, 256, 384, 384, 512, 512],
}


ORACLES = Path(os.environ.get("QUANTGATE_ORACLES", Path(sys.prefix) / "oracles"))
"""Packages to compare with, away from where the pipeline looks for its own; ``make setup`` fills it."""


def package(
    folder: Path, net: Net, one: torch.Tensor, two: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What the lpips package says of two batches [N, 3, H, W] in [-1, 1], and its random trunk."""
    assert (ORACLES / "lpips").is_dir(), f"no lpips in {ORACLES}: make setup installs it there"
    save_file({"one": one.contiguous(), "two": two.contiguous()}, folder / "in.safetensors")
    script = Path(__file__).with_name("lpips_oracle.py")
    files = (folder / "in.safetensors", folder / "out.safetensors")
    subprocess.run([sys.executable, script, ORACLES, *files, net], check=True, capture_output=True, timeout=300)
    out = load_file(folder / "out.safetensors")
    distance = out.pop("distance")
    return distance, {name.removeprefix("trunk."): value for name, value in out.items()}


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's heads are found, as where it is installed."""
    monkeypatch.syspath_prepend(str(ORACLES))


def random_alex() -> dict[str, torch.Tensor]:
    """A random AlexNet trunk, for everything but a number that is called LPIPS."""
    generator = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    state = {}
    for key, shape in shapes.items():
        state[f"features.{key}.weight"] = torch.randn(shape, generator=generator) * 0.05
        state[f"features.{key}.bias"] = torch.randn(shape[0], generator=generator) * 0.05
    return state


@pytest.mark.usefixtures("heads")
@pytest.mark.parametrize("net", NETS)
def test_equals_the_package_exactly(net: Net, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    one, two = (torch.rand(2, 3, 72, 88, generator=generator) * 2 - 1 for _ in range(2))
    wanted, whole = package(tmp_path, net, one, two)
    trunk = {name: value for name, value in whole.items() if name in parameter_names(net)}
    with torch.inference_mode():
        found = lpips_distance(net, trunk, load_heads(net), one, two)
    assert set(trunk) == set(parameter_names(net))
    assert wanted.abs().max() > 0
    assert torch.equal(found, wanted)


@pytest.mark.usefixtures("heads")
def test_the_metric_equals_the_package_on_a_clip(tmp_path: Path, make_clip: object) -> None:
    golden, candidate = make_clip(2, 64, 64), make_clip(2, 64, 64, noise=20)  # type: ignore[operator]
    one, two = (torch.from_numpy(clip.frames.copy()).permute(0, 3, 1, 2) / 127.5 - 1 for clip in (golden, candidate))
    wanted, trunk = package(tmp_path, "alex", one, two)
    path = tmp_path / "alex.safetensors"
    save_file(trunk, path)
    source = WeightSource(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    result = compare(golden, candidate, [Lpips("alex", source)]).metrics[0]
    assert result.implementation == f"own trunk {source.sha256[:12]}"
    assert result.per_frame == pytest.approx(wanted.flatten().tolist(), abs=1e-6)


@pytest.mark.parametrize("net", NETS)
def test_without_weights_it_is_not_computed(
    make_clip: object, net: Net, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(f"QUANTGATE_LPIPS_{net.upper()}", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    result = compare(make_clip(1, 40, 40), make_clip(1, 40, 40, noise=9), [f"lpips_{net}"]).metrics[0]  # type: ignore[operator]
    assert result.status == "not_computed"
    assert f"QUANTGATE_LPIPS_{net.upper()}_SHA256" in result.why


def test_frames_too_small_for_the_trunk_are_refused(make_clip: object) -> None:
    result = compare(make_clip(1, 31, 40), make_clip(1, 31, 40, noise=9), ["lpips_alex"]).metrics[0]  # type: ignore[operator]
    assert "40x31" in result.why


def test_a_place_without_a_digest_is_refused(make_clip: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTGATE_LPIPS_ALEX", "/somewhere.safetensors")
    result = compare(make_clip(1, 40, 40), make_clip(1, 40, 40, noise=9), ["lpips_alex"]).metrics[0]  # type: ignore[operator]
    assert "unpinned" in result.why


def test_weights_of_another_digest_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "alex.safetensors"
    save_file(random_alex(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert fetch(WeightSource(str(path), digest)) == path
    assert set(load_trunk("alex", WeightSource(str(path), digest))) == set(parameter_names("alex"))
    with pytest.raises(MetricUnavailableError, match=digest):
        fetch(WeightSource(str(path), "0" * 64))
    with pytest.raises(MetricUnavailableError, match="no vgg trunk"):
        load_trunk("vgg", WeightSource(str(path), digest))
    with pytest.raises(MetricUnavailableError, match="cannot be read"):
        fetch(WeightSource(str(tmp_path / "absent"), digest))
    with pytest.raises(MetricUnavailableError, match="hub:<owner>"):
        fetch(WeightSource("hub:owner/repo", digest))
    path.write_bytes(b"not safetensors")
    with pytest.raises(MetricUnavailableError, match="not a safetensors file"):
        load_trunk("alex", WeightSource(str(path), hashlib.sha256(b"not safetensors").hexdigest()))


def test_weights_come_from_the_hub_at_a_stated_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "alex.safetensors"
    save_file(random_alex(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    asked: list[tuple[str, str, str]] = []

    def download(repo: str, file: str, *, revision: str) -> str:
        asked.append((repo, file, revision))
        if revision == "gone":
            raise FileNotFoundError("no such revision")
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert fetch(WeightSource("hub:owner/repo/folder/alex.safetensors@abc", digest)) == path
    assert asked == [("owner/repo", "folder/alex.safetensors", "abc")]
    with pytest.raises(MetricUnavailableError, match="no such revision"):
        fetch(WeightSource("hub:owner/repo/alex.safetensors@gone", digest))


def test_missing_heads_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.frames.metrics.lpips_weights.find_spec", lambda _: None)
    with pytest.raises(MetricUnavailableError, match="heads"):
        load_heads("alex")


def test_taps_have_the_channels_of_the_heads() -> None:
    taps = features("alex", random_alex(), torch.zeros(1, 3, 64, 64))
    assert [tap.shape[1] for tap in taps] == CHANNELS["alex"]
    for net in NETS:
        assert sum(layer[0] == "tap" for layer in LAYERS[net]) == len(CHANNELS[net])


def test_distance_is_zero_on_equal_images_and_symmetric() -> None:
    trunk = random_alex()
    heads = [torch.rand(1, count, 1, 1) for count in CHANNELS["alex"]]
    one, two = torch.rand(1, 3, 64, 64) * 2 - 1, torch.rand(1, 3, 64, 64) * 2 - 1
    assert float(lpips_distance("alex", trunk, heads, one, one)) == 0.0
    assert float(lpips_distance("alex", trunk, heads, one, two)) > 0.0
    assert torch.equal(lpips_distance("alex", trunk, heads, one, two), lpips_distance("alex", trunk, heads, two, one))


def test_the_package_is_used_only_where_its_weights_are(
    make_clip: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With torchvision's file in the hub folder and no package, the reason names the package and the other way."""
    import sys

    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / metric.TORCHVISION_FILES["alex"]).touch()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, "lpips", None)
    result = compare(make_clip(1, 40, 40), make_clip(1, 40, 40, noise=9), ["lpips_alex"]).metrics[0]  # type: ignore[operator]
    assert "lpips package cannot be imported" in result.why
