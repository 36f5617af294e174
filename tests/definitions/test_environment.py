"""Which environment variables a case may set."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from harness.definitions import environment
from harness.definitions.environment import LEASED, EnvironmentRule, check_name, environment_of, looks_secret


@pytest.mark.parametrize(
    "name",
    [
        "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CUDA_MODULE_LOADING", "NVIDIA_TF32_OVERRIDE", "TORCH_LOGS",
        "PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "HF_HUB_OFFLINE",
        "QUANTGATE_TRACE",
    ],
)  # fmt: skip
def test_what_the_diffusers_backend_reads(name):
    assert check_name(name, "diffusers", ()) is None


def test_an_unknown_name_needs_a_word_from_the_case():
    assert "did you mean OMP_NUM_THREADS?" in (check_name("OMP_NUM_THREAD", "diffusers", ()) or "")
    assert "pass_env: [MY_FLAG]" in (check_name("MY_FLAG", "diffusers", ()) or "")
    assert check_name("MY_FLAG", "diffusers", ("MY_FLAG",)) is None


def test_what_sglang_reads_is_known_and_the_lease_is_still_not_the_cases():
    assert check_name("SGLANG_DIFFUSION_FLASHINFER_FP4_GEMM_BACKEND", "sglang", ()) is None
    assert check_name("ATEN_CPU_CAPABILITY", "sglang", ()) is None
    assert check_name("SGLNAG_DIFFUSION", "sglang", ()) is not None
    assert check_name("CUDA_VISIBLE_DEVICES", "sglang", ()) is not None


def test_a_program_of_its_own_reads_what_it_likes_but_no_secret():
    assert check_name("SGLANG_DIFFUSION_FLASHINFER_FP4_GEMM_BACKEND", "command", ()) is None
    assert "looks like a secret" in (check_name("HF_TOKEN", "command", ("HF_TOKEN",)) or "")


@pytest.mark.parametrize("name", sorted(LEASED))
@pytest.mark.parametrize("backend", ["diffusers", "command"])
def test_no_case_chooses_its_gpu(name, backend):
    assert "belongs to the lease" in (check_name(name, backend, ()) or "")
    assert "belongs to the lease" in (check_name(name, backend, (name,)) or "")


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("MYSECRET", True),
        ("DB_PASSWORD", True),
        ("OPENAI_APIKEY", True),
        ("api_key", True),
        ("HUGGINGFACETOKEN", True),
        ("TOKENIZERS_PARALLELISM", False),
        ("KEYBOARD", False),
        ("MONKEY", False),
        ("OMP_NUM_THREADS", False),
    ],
)
def test_what_looks_secret(name, secret):
    assert looks_secret(name) is secret


def test_a_backend_of_another_distribution_brings_its_own_table(monkeypatch):
    class Fake(EntryPoint):
        def load(self):
            return EnvironmentRule(prefixes=("SGLANG_",))

    monkeypatch.setattr(
        environment, "entry_points", lambda group, name: [Fake(name, "x", group)] if name == "sglang" else []
    )
    environment_of.cache_clear()
    try:
        assert check_name("SGLANG_X", "sglang", ()) is None
        assert check_name("SGLANG_X", "another", ()) is not None
    finally:
        environment_of.cache_clear()
