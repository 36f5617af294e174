"""Runner profiles: what is read, and which device is which runner."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.definitions.runner import load_runners, match_runner
from harness.errors import InvalidCaseError, NoRunnerError
from harness.records.identity import Device

ROOT = Path(__file__).parents[2]
CPU = "name: cpu\ndevice_kind: cpu\narchitectures: [x86_64]\nmarker: cpu\nlabels: [ubuntu]\n"
GPU = (
    "name: gpu\ndevice_kind: cuda\ndevice_names: [NVIDIA X]\ncompute_capability: '9.0'\nmarker: gpu\n"
    "labels: [self-hosted]\n"
)


@pytest.fixture
def profiles():
    return load_runners(ROOT / "runners")


def gpu(name: str, capability: str) -> Device:
    return Device(kind="cuda", name=name, compute_capability=capability)


@pytest.mark.parametrize(
    ("device", "runner"),
    [
        (gpu("NVIDIA H200", "9.0"), "h200"),
        (gpu("NVIDIA B200", "10.0"), "b200"),
        (Device(kind="cpu", name="x86_64"), "cpu"),
        (Device(kind="cpu", name="aarch64"), "cpu"),
    ],
)
def test_the_committed_profiles_recognise_their_devices(profiles, device, runner):
    assert match_runner(device, profiles).name == runner


@pytest.mark.parametrize(
    "device",
    [
        gpu("NVIDIA GB200", "10.0"),
        gpu("NVIDIA B300", "10.3"),
        gpu("B200", "10.0"),
        gpu("nvidia b200", "10.0"),
        gpu("NVIDIA B200 MIG 1g.23gb", "10.0"),
        gpu("NVIDIA H200 NVL", "9.0"),
        gpu("x86_64", "9.0"),
        Device(kind="cpu", name="riscv64"),
        Device(kind="cpu", name="NVIDIA B200"),
    ],
)
def test_an_unknown_device_is_an_error_that_names_it_and_the_file(profiles, device):
    with pytest.raises(NoRunnerError) as caught:
        match_runner(device, profiles)
    assert repr(device.name) in str(caught.value)
    assert "runners/<name>.yaml" in caught.value.remedy


def test_the_right_name_with_another_capability_is_an_error(profiles):
    with pytest.raises(NoRunnerError, match=r"reports compute capability 12\.0, and runner b200 is 10\.0"):
        match_runner(gpu("NVIDIA B200", "12.0"), profiles)


def test_what_the_committed_profiles_say(profiles):
    assert set(profiles) == {"cpu", "h200", "b200"}
    assert profiles["h200"].native_formats == ("bf16", "fp8")
    assert profiles["b200"].native_formats == ("bf16", "fp8", "nvfp4")
    assert profiles["b200"].labels == ("self-hosted", "linux", "x64", "gpu-b200")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cpu": CPU + "labls: [x]\n"}, "runners/cpu.yaml:6: labls: unknown key; did you mean labels?"),
        (
            {"cpu": CPU.replace("[x86_64]", "x86_64")},
            "runners/cpu.yaml:3: architectures: must be a list",
        ),
        ({"other": CPU}, "runners/other.yaml:1: name: must be 'other', as the file is called"),
        ({"cpu": "a: [\n"}, "runners/cpu.yaml:2: "),
        ({"cpu": CPU.replace("architectures: [x86_64]\n", "")}, "a cpu runner states its architectures"),
        ({"cpu": CPU + "driver: '570'\n"}, "belong to a cuda runner"),
        ({"gpu": GPU.replace("compute_capability: '9.0'\n", "")}, "states device_names and compute_capability"),
        ({"gpu": GPU.replace("'9.0'", "9.0")}, 'must be text; write it in quotes: "9.0"'),
        ({"gpu": GPU + "architectures: [x86_64]\n"}, "architectures belong to a cpu runner"),
        ({"gpu": GPU + "packages: {torch: 2.11}\n"}, "packages: torch: must be text"),
        ({"gpu": GPU + "packages: {torch: newest}\n"}, "is no version specifier"),
        (
            {"gpu": GPU, "twin": GPU.replace("name: gpu", "name: twin")},
            "runners/twin.yaml:1: device 'NVIDIA X' belongs to runner gpu already",
        ),
        ({"gpu": GPU, "twin": GPU.replace("name: gpu", "name: twin")}, "marker 'gpu' belongs to runner gpu already"),
    ],
)
def test_a_wrong_profile_is_an_error_with_its_place(tmp_path, files, message):
    folder = tmp_path / "runners"
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    with pytest.raises(InvalidCaseError) as caught:
        load_runners(folder)
    assert message in caught.value.message


def test_no_folder_is_no_runner(tmp_path):
    assert load_runners(tmp_path / "runners") == {}
    with pytest.raises(NoRunnerError, match="is of no known runner"):
        match_runner(gpu("NVIDIA B200", "10.0"), {})


@pytest.mark.parametrize("name", ["skip", "xfail", "usefixtures", "no_cover", "not"])
def test_a_runner_with_the_name_of_a_mark_is_refused_by_every_command(tmp_path, name):
    (tmp_path / f"{name}.yaml").write_text(CPU.replace("cpu\ndevice", f"{name}\ndevice"))
    with pytest.raises(InvalidCaseError, match="is a word or mark of pytest"):
        load_runners(tmp_path)
    (tmp_path / f"{name}.yaml").unlink()
    (tmp_path / "cpu.yaml").write_text(CPU.replace("marker: cpu", f"marker: {name}"))
    with pytest.raises(InvalidCaseError, match="is a word or mark of pytest"):
        load_runners(tmp_path)
