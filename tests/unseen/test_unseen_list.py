"""The unseen list names what exists, its edits do what they say and no more, and its driver counts what is there."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.unseen.design import Entry, numbered
from benchmarks.unseen.drive import interleaved, read_results
from benchmarks.unseen.faults import faults
from benchmarks.unseen.files import EDITS
from benchmarks.unseen.finished import CHANGES
from benchmarks.unseen.healthy import healthy
from benchmarks.unseen.patch import Patch
from benchmarks.unseen.result import Result
from benchmarks.unseen.running import INJECTIONS
from benchmarks.unseen.score import tables


def result(name: str, outcome: str, causes: tuple[str, ...] = (), **more: Any) -> Result:
    return Result(
        **{
            "id": name,
            "code": "abc",
            "outcome": outcome,
            "verdict_cause": "none",
            "summary": "",
            "next_command": "",
            "causes": causes,
            "attribution_seconds": None,
            "seconds": 1.0,
            "distance": 1.0,
            **more,
        }
    )


def test_the_list_is_large_enough_and_every_name_exists() -> None:
    wrong, harmless = faults(), healthy()
    assert len(wrong) >= 125
    assert len(harmless) >= 60
    assert sum(entry.kind == "precision in one place" for entry in wrong) >= 9
    numbered([*wrong, *harmless])
    for entry in (*wrong, *harmless):
        assert not entry.running or entry.running in INJECTIONS, entry.id
        assert not entry.files or entry.files in EDITS, entry.id
        assert not entry.frames or entry.frames in CHANGES, entry.id
    assert {entry.form for entry in wrong} == {"nvfp4", "fp8"}
    assert all(entry.accept for entry in wrong)
    assert not any(entry.accept for entry in harmless)


def test_an_entry_twice_and_one_that_changes_nothing_are_refused() -> None:
    entry = Entry("a", "kind", "fp8", running="nothing")
    with pytest.raises(ValueError, match="listed twice"):
        numbered([entry, entry])
    with pytest.raises(ValueError, match="changes nothing"):
        numbered([Entry("b", "kind", "fp8")])


def test_a_cause_is_right_only_where_all_patterns_match() -> None:
    entry = Entry("a", "kind", "nvfp4", files="nibbles_one", accept=("nibble", r"blocks\.3\.attn2\.to_v"))
    assert entry.names("nibble_order transformer/blocks.3.attn2.to_v its nibbles are exchanged")
    assert not entry.names("nibble_order transformer/blocks.2.attn2.to_v its nibbles are exchanged")
    assert not entry.names("gain transformer/blocks.3.attn2.to_v")
    gain = Entry("b", "kind", "fp8", running="nothing", accept=("gain",))
    assert gain.names("row_gain transformer")
    assert not gain.names("run again on the same engine")


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_change_of_frames_keeps_the_kind_of_array_and_changes_it(name: str) -> None:
    random = np.random.default_rng(0)
    smooth = np.cumsum(random.integers(0, 3, (17, 64, 96, 3)), axis=2)
    frames = np.clip(20 + smooth + 3 * np.arange(17)[:, None, None, None], 0, 255).astype(np.uint8)
    changed = CHANGES[name](frames.copy())
    assert changed.dtype == np.uint8
    assert changed.shape == frames.shape
    assert np.array_equal(changed, frames) == (name == "same")


def test_the_beginning_of_the_list_holds_every_kind() -> None:
    kinds = {entry.kind for entry in faults()}
    assert {entry.kind for entry in interleaved(faults())[: 4 * len(kinds)]} == kinds


def export(folder: Path) -> Path:
    """A repository with the names that the edits use, and few values."""
    random = torch.Generator().manual_seed(0)
    for component in ("transformer", "transformer_2", "vae", "text_encoder"):
        (folder / component).mkdir(parents=True)
        tensors = {
            f"blocks.{block}.{module}.{part}": torch.rand(4, 8, generator=random)
            for block in range(3)
            for module in ("attn1.to_q", "ffn.net.0")
            for part in ("weight", "bias")
        }
        name = "model.safetensors" if component == "text_encoder" else "diffusion_pytorch_model.safetensors"
        save_file(tensors, folder / component / name, {"format": "pt"})
        (folder / component / "config.json").write_text(json.dumps({"b": 1, "a": [1, 2]}, indent=2))
    return folder


def all_tensors(folder: Path) -> dict[str, bytes]:
    return {
        f"{path.parent.name}/{name}": tensor.numpy().tobytes()
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.mark.parametrize("name", ["resharded", "one_shard", "reordered", "header_padded", "metadata_added", "links"])
def test_a_healthy_rewrite_changes_files_and_no_tensor(tmp_path: Path, name: str) -> None:
    folder = export(tmp_path / "x" / "export")
    before = all_tensors(folder)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    EDITS[name](folder)
    assert all_tensors(folder) == before
    after = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert (after != files) == (name != "links")


def test_a_fault_of_files_changes_the_tensors_that_it_names(tmp_path: Path) -> None:
    folder = export(tmp_path / "export")
    before = all_tensors(folder)
    EDITS["blocks_exchanged"](folder)
    after = all_tensors(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert all(name.startswith(("transformer_2/blocks.1.", "transformer_2/blocks.2.")) for name in changed)
    with pytest.raises(LookupError, match="no such tensor"):
        EDITS["vae_norms_one"](folder)


def test_a_patch_is_taken_back_and_leaves_the_name_of_the_class() -> None:
    layer = torch.nn.Linear(2, 2)
    states, weight = torch.ones(1, 2), layer.weight.detach().clone()
    plain = layer(states)
    with ExitStack() as stack, torch.no_grad():
        patch = Patch(cast("Any", None), stack)
        patch.override(layer, "forward", lambda original, given: original(given) + 1)
        patch.values(layer.weight, lambda old: old * 2)
        assert type(layer).__name__ == "Linear"
        assert not torch.equal(layer(states), plain)
    assert type(layer) is torch.nn.Linear
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer(states), plain)


def test_results_are_read_without_cut_lines_and_other_code(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    kept, other = result("a", "pass"), result("b", "pass", code="older")
    path.write_text(f"{kept.model_dump_json()}\n{other.model_dump_json()}\n{kept.model_dump_json()[:40]}")
    assert read_results(path, "abc") == {"a": kept}


def test_the_tables_count_outcomes_causes_and_runs_that_broke() -> None:
    entry = {name: Entry(name, "kind", "fp8", running="nothing", accept=("vae",)) for name in "abcdef"}
    fine = Entry("g", "healthy: x", "fp8", running="nothing")
    rows = [
        (entry["a"], result("a", "regression", ("decode vae it is the VAE",))),
        (entry["b"], result("b", "checkpoint_fault", ("noise", "vae"))),
        (entry["c"], result("c", "regression", ("noise",))),
        (entry["d"], result("d", "golden_stale", next_command="quantgate accept fp8 --reason '...'")),
        (entry["e"], result("e", "pass", distance=0.0)),
        (entry["f"], result("f", "infra")),
        (fine, result("g", "regression", ("noise",))),
    ]
    text = tables(rows)
    assert "red                                   3 of 5 (60.0 %)" in text
    assert "only `accept` suggested 1 of 5" in text
    assert "first cause right, of the red         1 of 3" in text
    assert "first or second right, of the red     2 of 3" in text
    assert "green with the very frames of the golden: e" in text
    assert "runs that broke, counted nowhere: 1" in text
    assert "  red                                   1 of 1 (100.0 %)" in text
