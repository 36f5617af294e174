"""One hardware class per architecture of CPU, however the operating system spells it."""

from __future__ import annotations

import platform

import pytest

from harness.architecture import hardware_class
from harness.definitions.runner import RunnerProfile, match_runner
from harness.goldens.matching import MatchKind, kind_of
from harness.machine.devices import cpu_device
from harness.records.identity import Identity, differences


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("arm64", "aarch64"),
        ("aarch64", "aarch64"),
        ("AMD64", "x86_64"),
        ("x86_64", "x86_64"),
        ("riscv64", "riscv64"),
        ("NVIDIA B200", "NVIDIA B200"),
        ("Pocket Calculator", "Pocket Calculator"),
    ],
)
def test_spellings(spelled: str, name: str) -> None:
    assert hardware_class(spelled) == name


def made_on(device: str) -> Identity:
    return Identity(request={}, hardware={"device": device}, weights={}, env={}, subject={})


@pytest.mark.parametrize(
    ("golden", "run", "kind"),
    [
        ("arm64", "aarch64", MatchKind.EXACT),
        ("x86_64", "aarch64", MatchKind.CPU),
        ("aarch64", "x86_64", MatchKind.CPU),
        ("x86_64", "NVIDIA B200", MatchKind.HARDWARE),
        ("NVIDIA H200", "NVIDIA B200", MatchKind.HARDWARE),
    ],
)
def test_a_golden_of_another_cpu_is_compared_and_one_of_a_gpu_is_not(golden: str, run: str, kind: MatchKind) -> None:
    assert kind_of(differences(made_on(golden), made_on(run))) is kind


@pytest.mark.parametrize("machine", ["arm64", "aarch64"])
def test_a_mac_is_the_runner_that_names_aarch64(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for written in ("arm64", "aarch64"):
        profile = RunnerProfile(
            name="cpu", device_kind="cpu", architectures=("x86_64", written), marker="cpu", labels=("x",)
        )
        assert profile.architectures == ("x86_64", "aarch64")
        assert match_runner(cpu_device(), {"cpu": profile}).name == "cpu"
