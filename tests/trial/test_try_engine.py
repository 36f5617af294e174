"""``quantgate try`` over real checkpoints of the embedded model: what differs, whether it is safe, and what with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.definitions.case import CheckpointRef
from harness.definitions.loading import load_cases
from harness.definitions.runner import load_runners
from harness.goldens.store import open_store
from harness.machine.devices import cpu_device
from harness.machine.leases import device_environment
from harness.session.context import SessionContext
from harness.trial.trying import Trial, candidate_case, try_candidate
from tiny.export import CALIBRATION, WEIGHTS, export

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("try")
    (folder / "tiny").mkdir()
    (folder / "tiny" / "weights").symlink_to(WEIGHTS)
    (folder / "tiny" / "calibration.json").symlink_to(CALIBRATION)
    for name in ("nvfp4-override", "nvfp4-preswapped-override"):
        export(name, folder / "tiny" / "exports")
    return folder


def tried(root: Path, override: str) -> Trial:
    found = {one.case.id: one for one in load_cases([REPOSITORY / "cases" / "tiny.yaml"], REPOSITORY)}
    located, device = found["nvfp4_override"], cpu_device()
    context = SessionContext(
        root=root,
        run=override.replace("/", "-").strip("."),
        runs_dir=root / "runs",
        runner=load_runners(REPOSITORY / "runners")["cpu"],
        device=device,
        store=open_store(REPOSITORY / "goldens"),
        thresholds=REPOSITORY / "thresholds",
        device_env=device_environment(device),
    )
    candidate = candidate_case(located.case, {"transformer": CheckpointRef(path=override)}, {})
    return try_candidate(context, located, candidate)


def test_the_incidents_switch_is_safe_only_with_the_other_nibble_order(root: Path) -> None:
    trial = tried(root, "./tiny/exports/nvfp4-preswapped-override")
    assert trial.answer == "safe_with_changes"
    assert trial.yaml["loader.nibble_order"] == "high_first"
    assert trial.difference is not None
    assert str(root) not in trial.difference.to_json(), "a record holds paths as the case writes them"
    changed = {(one.expert, one.field): (one.old, one.new) for one in trial.difference.changes}
    assert changed["transformer", "proven reading"] == ("low_first/linear", "high_first/linear")
    assert all(pair.then <= pair.limit for pair in trial.probes)
    assert len(trial.probes) == 4
    assert set(trial.clips) == {"now", "then"}


def test_a_switch_that_proves_broken_never_runs(root: Path) -> None:
    """Scales of one expert are gone: said from the bytes, with the difference, and no engine was started."""
    from tiny.tensorfile import read, write

    source = root / "tiny" / "exports" / "nvfp4-override"
    broken = root / "tiny" / "exports" / "broken"
    for path in source.rglob("*"):
        if path.is_file():
            target = broken / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (file,) = broken.rglob("*.safetensors")
    write(file, {name: tensor for name, tensor in read(file).items() if not name.endswith("to_q.weight_scale")})
    trial = tried(root, "./tiny/exports/broken")
    assert trial.answer == "unsafe"
    assert "scale_missing" in " ".join(trial.reasons)
    assert trial.difference is not None
    assert any(one.field == "tensors only in B" for one in trial.difference.changes)
    assert (trial.probes, trial.clips) == ((), {})
