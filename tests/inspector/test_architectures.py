"""Image-to-video pipelines: index, transformers and VAE against each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.inspector import inspect_checkpoint
from harness.inspector.architectures import channels_wanted, misfits, published, unusual_boundary
from harness.inspector.index import Component
from tiny.export_variants import export

FULL: dict[str, dict[str, Any]] = {
    "Wan2.2-T2V-A14B": {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "in_channels": 16,
                        "out_channels": 16},
    "Wan2.2-I2V-A14B": {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "in_channels": 36,
                        "out_channels": 16},
    "Wan2.2-TI2V-5B": {"num_layers": 30, "num_attention_heads": 24, "attention_head_dim": 128, "in_channels": 48,
                       "out_channels": 48},
}  # fmt: skip


class Sized:
    """Stands for a component of which only the configuration counts."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.tensors: dict[str, Any] = {}


def experts(name: str, count: int) -> dict[str, Component]:
    made: Any = {role: Sized(FULL[name]) for role in ("transformer", "transformer_2")[:count]}
    components: dict[str, Component] = made
    return components


def index(name: str, **changed: Any) -> dict[str, Any]:
    pair = ["diffusers", "WanTransformer3DModel"]
    bodies: dict[str, dict[str, Any]] = {
        "Wan2.2-T2V-A14B": {"_class_name": "WanPipeline", "boundary_ratio": 0.875, "transformer_2": pair},
        "Wan2.2-I2V-A14B": {"_class_name": "WanImageToVideoPipeline", "boundary_ratio": 0.9, "transformer_2": pair},
        "Wan2.2-TI2V-5B": {
            "_class_name": "WanPipeline", "boundary_ratio": None, "transformer_2": [None, None],
            "expand_timesteps": True,
        },
    }  # fmt: skip
    return {**bodies[name], "transformer": pair, **changed}


@pytest.mark.parametrize("name", FULL)
def test_a_published_model_is_recognised_and_fits(name: str) -> None:
    parts = experts(name, 1 if "TI2V" in name else 2)
    model = published(parts)
    assert model is not None
    assert model.name == name
    assert not list(misfits(index(name), parts, {}))
    assert not list(unusual_boundary(index(name), parts))
    size = FULL[name]["out_channels"]
    assert channels_wanted(index(name), FULL[name], size) == (FULL[name]["in_channels"],)


def test_one_expert_of_the_size_of_a14b_is_wan21_and_no_model_of_this_list() -> None:
    assert published(experts("Wan2.2-I2V-A14B", 1)) is None


MISFITS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "TI2V without expand_timesteps": ("Wan2.2-TI2V-5B", {"expand_timesteps": False}, {}, "lacks expand_timesteps"),
    "I2V with expand_timesteps": ("Wan2.2-I2V-A14B", {"expand_timesteps": True}, {}, "two experts"),
    "I2V named T2V": ("Wan2.2-I2V-A14B", {"_class_name": "WanPipeline"}, {}, "names WanPipeline"),
    "T2V named I2V": ("Wan2.2-T2V-A14B", {"_class_name": "WanImageToVideoPipeline"}, {}, "names WanImageToVideo"),
    "a switch to no expert": ("Wan2.2-TI2V-5B", {"boundary_ratio": 0.9}, {}, "names no transformer_2"),
    "a VAE of other patches": ("Wan2.2-TI2V-5B", {}, {"patch_size": 2, "in_channels": 3}, "patches of 2x2"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_parts_that_cannot_work_together_are_named(name: str) -> None:
    model, changed, vae, words = MISFITS[name]
    parts = experts(model, 1 if "TI2V" in model else 2)
    assert any(words in text for text, _ in misfits(index(model, **changed), parts, vae))


def test_experts_of_two_models_are_named() -> None:
    parts = {**experts("Wan2.2-T2V-A14B", 2), "transformer": experts("Wan2.2-I2V-A14B", 1)["transformer"]}
    assert any("not of one model" in text for text, _ in misfits(index("Wan2.2-T2V-A14B"), parts, {}))


def test_an_unusual_boundary_is_shown() -> None:
    parts = experts("Wan2.2-I2V-A14B", 2)
    (found,) = unusual_boundary(index("Wan2.2-I2V-A14B", boundary_ratio=0.875), parts)
    assert (found.severity, found.code) == ("warning", "boundary_ratio_differs")
    assert "0.9" in found.message


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    for name in ("i2v", "i2v-nvfp4", "ti2v", "ti2v-fp8"):
        export(name, folder)
    return folder


@pytest.mark.parametrize(("name", "base"), [("i2v-nvfp4", "i2v"), ("ti2v-fp8", "ti2v")])
def test_the_embedded_models_raise_nothing(name: str, base: str, exports: Path) -> None:
    found = inspect_checkpoint(exports / name, base=exports / base, digests=False)
    assert not found.faults, [item.message for item in found.faults]


def setting(file: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        body = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(body | values))

    return change


FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "36 channels in a text pipeline": ("i2v", setting("model_index.json", _class_name="WanPipeline")),
    "16 channels where a mask and an image come": (
        "ti2v",
        setting("model_index.json", _class_name="WanImageToVideoPipeline", expand_timesteps=False),
    ),
    "expand_timesteps for 36 channels": ("i2v", setting("model_index.json", expand_timesteps=True)),
    "one expert that switches": ("ti2v", setting("model_index.json", boundary_ratio=0.9)),
    "a VAE of 48 channels": ("ti2v", setting("vae/config.json", z_dim=48)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_repository_whose_parts_do_not_fit_is_a_fault(name: str, tmp_path: Path) -> None:
    model, change = FAULTS[name]
    folder = export(model, tmp_path)
    change(folder)
    found = inspect_checkpoint(folder, base=None, digests=False)
    assert found.with_code("component_mismatch"), [item.message for item in found.findings]
