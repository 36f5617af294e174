"""From a record and experiments to a named cause."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_record

from harness.judge.attribution import attribute, next_experiments
from harness.outcomes import Outcome
from harness.records.attribution import Experiment, ExperimentResult, Reading
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.generation import Alone, Step, Trace
from harness.records.inspection import InspectionFinding, InspectionReport
from harness.records.probe import ModuleEvidence, ProbeEvidence
from harness.records.verdict import Finding, Verdict

A, B = "transformer/blocks.1.attn1.to_q", "transformer/blocks.1.ffn.net.2"
LOW = "transformer_2/blocks.1.attn1.to_q"


def finding(stage: str, code: str, *, gating: bool = True, **data: Json) -> Finding:
    return Finding(stage=stage, code=code, gating=gating, message=f"{code} is so", data=data)  # type: ignore[arg-type]


def probed(*names: str, fmt: str = "nvfp4") -> ProbeEvidence:
    modules = tuple(
        ModuleEvidence(expert=name.partition("/")[0], module=name.partition("/")[2], format=fmt)  # type: ignore[arg-type]
        for name in names
    )
    return ProbeEvidence(steps=(), modules=modules, golden_anchor=True)


@pytest.fixture
def record() -> Any:
    def build(*findings: Finding, **more: Any) -> CaseRecord:
        verdict = Verdict(outcome=Outcome.REGRESSION, cause="x", summary="red", findings=findings)
        return make_record(verdict=verdict, **{"probe": probed(A, B, LOW), **more})

    return build


def read(name: str, *readings: tuple[str, float, float]) -> ExperimentResult:
    expert, _, module = name.partition("/")
    return ExperimentResult(
        experiment=Experiment(kind="readings", expert=expert, module=module),  # type: ignore[arg-type]
        done=True,
        readings=tuple(Reading(name=reading, error=error, gain=factor) for reading, error, factor in readings),
    )


def did(kind: str, **data: Json) -> ExperimentResult:
    return ExperimentResult(experiment=Experiment(kind=kind), done=True, data=data)  # type: ignore[arg-type]


SWAPPED = (("nibble_swapped", 0.003, 1.0), ("base", 1.4, 0.0), ("declared", 1.4, 0.0))


PATTERN = tuple(f"transformer/blocks.{block}.attn1.to_k" for block in range(1, 5))


@pytest.mark.parametrize(
    ("names", "place"),
    [
        ((A,), A),
        ((A, B), "transformer/blocks.1"),
        ((A, B, LOW), "both experts/blocks.1"),
        (PATTERN, "transformer/blocks.*.attn1.to_k"),
        ((LOW,), LOW),
    ],
)
def test_a_misreading_is_named_with_its_scope(record: Any, names: tuple[str, ...], place: str) -> None:
    given = record(finding("probe", "module_off", modules=list(names)))
    wanted = next_experiments(given, ())
    assert [f"{one.expert}/{one.module}" for one in wanted] == list(names)
    results = [read(name, *SWAPPED) for name in names]
    assert next_experiments(given, results) == ()
    found = attribute(given, results).cause
    assert found is not None
    assert (found.code, found.place) == ("nibble_order", place)


@pytest.mark.parametrize(
    ("readings", "code"),
    [
        ((("scale_swizzled", 0.003, 1.0),), "scale_layout"),
        ((("scale_rolled_rows_+1", 0.003, 1.0),), "scale_layout"),
        ((("scale_missing", 0.003, 1.0),), "scale_value"),
        ((("declared", 0.0102, 1.01), ("base", 0.1, 1.0)), "gain"),
        ((("declared", 1.0, 2.0), ("base", 1.1, 2.0)), "gain"),
        ((("other_expert", 0.002, 1.0), ("declared", 0.2, 1.0)), "experts_swapped"),
        ((("base", 0.002, 1.0), ("declared", 0.1, 1.0)), "unquantized"),
        ((("declared", 0.002, 1.0),), "golden_differs"),
        ((("base", 0.05, 1.0), ("declared", 0.11, 1.0)), "unexplained_weights"),
        ((("declared", 0.5, 0.8), ("base", 0.6, 0.8)), "unexplained_weights"),
    ],
)
def test_every_reading_has_its_cause(record: Any, readings: tuple[tuple[str, float, float], ...], code: str) -> None:
    given = record(finding("probe", "module_off", modules=[A]))
    found = attribute(given, [read(A, *readings)])
    assert found.cause is not None
    assert found.cause.code == code


def test_two_misreadings_are_two_causes(record: Any) -> None:
    given = record(finding("probe", "module_off", modules=[A, LOW]))
    found = attribute(given, [read(A, *SWAPPED), read(LOW, ("scale_swizzled", 0.003, 1.0))])
    assert found.cause is not None
    assert {(one.code, one.place) for one in (found.cause, *found.also)} == {("nibble_order", A), ("scale_layout", LOW)}


def test_of_many_modules_some_are_read(record: Any) -> None:
    names = [f"transformer/blocks.{index}.ffn.net.2" for index in range(40)]
    wanted = next_experiments(record(finding("probe", "module_off", modules=list(names))), ())
    assert len(wanted) == 8
    assert {wanted[0].module, wanted[-1].module} == {"blocks.0.ffn.net.2", "blocks.39.ffn.net.2"}


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ((finding("trace", "scheduler_settings", flow_shift={}), finding("trace", "timestep", step=1)), "flow_shift"),
        ((finding("trace", "scheduler_settings", solver_order={}),), "scheduler"),
        ((finding("trace", "boundary_ratio"), finding("trace", "expert", step=2)), "boundary_ratio"),
        ((finding("trace", "expert", step=2),), "expert"),
        ((finding("trace", "guidance", step=0),), "guidance"),
        ((finding("trace", "sequence_length"), finding("trace", "text_tokens")), "sequence_length"),
        ((finding("trace", "text_tokens"), finding("trace", "attention_mask")), "text_tokens"),
        ((finding("trace", "vae_settings", latents_mean={}),), "vae_statistics"),
        (
            (
                finding("trace", "image_condition_differs", place="given"),
                finding("trace", "vae_settings", latents_mean={}),
            ),
            "vae_statistics",
        ),
        (
            (
                finding("trace", "image_condition_differs", place="encoder"),
                finding("trace", "precision_differs", place="vae"),
                finding("trace", "vae_settings", dtype={}),
            ),
            "vae_dtype",
        ),
        ((finding("trace", "vae_settings", dtype={}),), "vae_dtype"),
        ((finding("receipts", "quantized_path_not_run", expert="transformer"),), "quantized_path_not_run"),
        ((finding("probe", "norm_off", modules=["transformer/blocks.0.norm2"]),), "norm"),
        ((finding("probe", "first_divergence", expert="transformer", point="p", kind="attention"),), "attention"),
        ((finding("identity", "request_differs"),), "request_differs"),
        ((finding("identity", "weights_changed", text_encoder={}), finding("frames", "x")), "weights_changed"),
        ((finding("identity", "env_changed"), finding("sanity", "noise")), "env_changed"),
    ],
)
def test_settings_name_the_cause_and_not_what_follows(record: Any, findings: tuple[Finding, ...], code: str) -> None:
    found = attribute(record(*findings), ())
    assert found.cause is not None
    assert (found.cause.code, found.also) == (code, ())


def test_what_the_bytes_prove_comes_first(record: Any) -> None:
    fault = InspectionFinding(code="nibble_order", severity="fault", message="swapped on disk", expert="transformer")
    report = InspectionReport(reference="r", base=None, outcome="fault", summary="s", findings=(fault,))
    given = record(finding("trace", "guidance", step=0), inspection=report)
    found = attribute(given, ())
    assert found.cause is not None
    assert (found.cause.code, [one.code for one in found.also]) == ("nibble_order", ["guidance"])


def test_without_proof_it_runs_again_and_names_noise_state_or_decoding(record: Any) -> None:
    given = record(finding("frames", "ssim_below_limit"))
    assert [one.kind for one in next_experiments(given, ())] == ["rerun_same"]
    noisy = [did("rerun_same", equal=False)]
    assert next_experiments(given, noisy) == ()
    assert attribute(given, noisy).cause.code == "noise"  # type: ignore[union-attr]
    steady = [did("rerun_same", equal=True)]
    assert [one.kind for one in next_experiments(given, steady)] == ["rerun_fresh", "base_probe"]
    stale = [*steady, did("rerun_fresh", equal=False), did("base_probe", differs=False, base_error=0.0)]
    assert attribute(given, stale).cause.code == "engine_state"  # type: ignore[union-attr]


def test_where_every_velocity_is_right_the_decoder_is_left(record: Any) -> None:
    results = [did("rerun_same", equal=True), did("rerun_fresh", equal=True), did("base_probe", differs=False)]
    failed = finding("frames", "ssim_below_limit")
    unmoved = finding("trace", "trajectory_error", gating=False, error=0.0001)
    assert attribute(record(failed, unmoved), results).cause.code == "decode"  # type: ignore[union-attr]
    drifted = finding("trace", "trajectory_error", gating=False, error=0.05)
    found = attribute(record(failed, drifted), results)
    assert found.cause is None
    assert any("numerical drift" in one for one in found.remaining)
    diverged = finding("trace", "first_diverging_step", gating=False, step=3)
    found = attribute(record(failed, diverged), results)
    assert found.cause is None
    assert "sampler, from step 3 on" in found.remaining
    assert {"noise", "engine state", "the base in this build"} <= set(found.ruled_out)


def in_the_loop(step: int, **changes: Any) -> tuple[Any, ...]:
    """A record's generation whose scheduler and latents were compared, and the finding of its first wrong step."""
    steps = (
        Step(index=0, timestep=999, expert="transformer", guidance_scale=3, latent_norm=1, carried_error=0.0),
        Step(index=1, timestep=900, expert="transformer", guidance_scale=3, latent_norm=1, carried_error=0.0),
    )
    trace = Trace(steps=steps, alone=Alone(scheduler=((1.0,),)), **changes)
    diverged = finding("trace", "first_diverging_step", gating=False, step=step, expert="transformer")
    return make_record().generation.model_copy(update={"trace": trace}), diverged


def test_experts_that_are_right_alone_and_wrong_after_a_step_keep_something(record: Any) -> None:
    failed, results = finding("frames", "ssim_below_limit"), [did("rerun_same", equal=True)]
    generation, diverged = in_the_loop(1)
    found = attribute(record(failed, diverged, generation=generation), results).cause
    assert found is not None
    assert found.code == "kept_between_calls"
    assert "step 1" in found.place
    assert attribute(record(failed, diverged, generation=generation), ()).cause is None, "it may be noise"
    off = finding("probe", "velocity_above_limit")
    assert attribute(record(failed, off, diverged, generation=generation), results).cause is None
    first, at_once = in_the_loop(0)
    assert attribute(record(failed, at_once, generation=first), results).cause is None, "nothing was kept yet"


def test_answers_that_do_not_repeat_are_noise_and_no_operation(record: Any) -> None:
    given = record(finding("probe", "first_divergence", expert="transformer", point="patch_embedding", kind="other"))
    assert [one.kind for one in next_experiments(given, ())] == ["probe_again"]
    found = attribute(given, [did("probe_again", equal=False)])
    assert found.cause is not None
    assert found.cause.code == "noise"
    steady = [did("probe_again", equal=True)]
    assert [one.kind for one in next_experiments(given, steady)] == ["base_probe"]
    found = attribute(given, [*steady, did("base_probe", differs=True, base_error=0.5)])
    assert found.cause is not None
    assert found.cause.code == "operation"
    assert "code or environment" in found.cause.sentence


def test_without_time_it_says_what_remains(record: Any) -> None:
    late = ExperimentResult(experiment=Experiment(kind="rerun_same"), done=False, why_not="no time")
    given = record(finding("frames", "ssim_below_limit"), probe=None)
    found = attribute(given, [late])
    assert found.cause is None
    assert next_experiments(given, [late]) == ()
    assert any("noise" in one for one in found.remaining)
    assert any("no probes" in one for one in found.remaining)


@pytest.mark.parametrize(
    "findings",
    [
        (finding("trace", "image_condition_differs", place="pixels"), finding("trace", "vae_settings", dtype={})),
        (
            finding("trace", "image_condition_differs", place="encoder"),
            finding("trace", "vae_settings", latents_std={}),
        ),
        (finding("trace", "precision_differs", place="text_encoder"), finding("trace", "vae_settings", dtype={})),
        (finding("trace", "image_condition_differs", place="given"),),
    ],
)
def test_a_setting_of_the_vae_hides_no_fault_that_it_cannot_cause(record: Any, findings: tuple[Finding, ...]) -> None:
    named = attribute(record(*findings), ())
    assert named.cause is not None
    assert named.cause.code == findings[0].code


def decoded(alone: float, run: float = 10.0) -> ExperimentResult:
    data: dict[str, Json] = {"rms_decoded": alone, "rms_first": run}
    return ExperimentResult(experiment=Experiment(kind="golden_latents"), done=True, data=data)


@pytest.mark.parametrize(
    ("alone", "blamed", "cleared"), [(9.0, True, False), (0.2, False, True), (3.0, False, False), (0.0, False, True)]
)
def test_the_goldens_latents_separate_the_vae_from_the_denoiser(
    record: Any, alone: float, blamed: bool, cleared: bool
) -> None:
    found = attribute(record(finding("frames", "ssim_below_limit")), [decoded(alone)])
    assert (found.cause is not None and (found.cause.code, found.cause.place) == ("decode", "vae")) == blamed
    assert any("the VAE" in text for text in found.ruled_out) == cleared


def test_weights_in_memory_come_before_what_follows_from_them(record: Any) -> None:
    given = record(
        finding("trace", "vae_alone"),
        finding("trace", "held_weights_differ", component="vae", tensors=["decoder.conv_in.weight"]),
    )
    found = attribute(given, [])
    assert found.cause is not None
    assert (found.cause.code, found.cause.place) == ("held_weights_differ", "vae/decoder.conv_in.weight")
    assert [cause.code for cause in found.also] == ["vae_alone"]


@pytest.mark.parametrize(("dtype", "codes"), [(True, ["vae_dtype"]), (False, ["held_weights_differ", "vae"])])
def test_a_vae_in_another_dtype_is_named_by_its_dtype(record: Any, dtype: bool, codes: list[str]) -> None:
    held = finding("trace", "held_weights_differ", component="vae", tensors=["decoder.conv_in.weight"], rounded=True)
    settings = finding("trace", "vae_settings", **({"dtype": "bf16"} if dtype else {"other": 1}))
    found = attribute(record(settings, held), [])
    assert found.cause is not None
    assert [cause.code for cause in (found.cause, *found.also)] == codes


@pytest.mark.parametrize(
    ("tensors", "rounded", "codes"),
    [
        (["blocks.*.attn1.to_q.weight", "blocks.*.attn1.to_q.weight_scale"], False, ["nibble_order"]),
        (["blocks.*.attn1.to_q.weight", "proj_out.bias"], False, ["nibble_order", "held_weights_differ"]),
        (["blocks.*.attn1.to_q.weight_scale", "proj_out.bias"], True, ["held_weights_differ", "nibble_order"]),
    ],
)
def test_a_module_that_was_read_otherwise_is_named_before_the_tensors_in_memory(
    record: Any, tensors: list[str], rounded: bool, codes: list[str]
) -> None:
    """The module and its reading are closer to the cause than the list of tensors, which a cast moves all at once."""
    given = record(
        finding("probe", "module_off", modules=["transformer/blocks.1.attn1.to_q"]),
        finding("probe", "held_weights_differ", component="transformer", tensors=tensors, rounded=rounded),
    )
    found = attribute(given, [read("transformer/blocks.1.attn1.to_q", ("nibble_swapped", 0.001, 1.0))])
    assert found.cause is not None
    assert [cause.code for cause in (found.cause, *found.also)] == codes
    if len(codes) > 1:
        held = next(cause for cause in (found.cause, *found.also) if cause.code == "held_weights_differ")
        assert held.place == "transformer/proj_out.bias"


def test_probes_and_trace_name_the_same_weights_once(record: Any) -> None:
    rows = [
        finding(stage, "held_weights_differ", component="transformer", tensors=["a"]) for stage in ("probe", "trace")
    ]
    found = attribute(record(*rows), [])
    assert (found.cause is not None, found.also) == (True, ())


def test_a_cache_is_blamed_and_not_the_guidance_that_it_spoils(record: Any) -> None:
    found = attribute(record(finding("trace", "guidance", step=5), finding("trace", "velocity_kept", step=5)), [])
    assert found.cause is not None
    assert (found.cause.code, found.also) == ("velocity_kept", ())
    found = attribute(record(finding("trace", "guidance", step=0), finding("trace", "velocity_changed", step=0)), [])
    assert found.cause is not None
    assert (found.cause.code, found.also) == ("guidance", ())


def test_an_activation_is_named_where_it_is_off(record: Any) -> None:
    names = [f"transformer/blocks.{block}.ffn.net.0" for block in range(4)]
    found = attribute(record(finding("probe", "activation_off", modules=names)), [])
    assert found.cause is not None
    assert (found.cause.code, found.cause.place) == ("activation", "transformer/blocks.*.ffn.net.0")


@pytest.mark.parametrize(
    ("codes", "order"),
    [
        (("block_scale_zero", "weights_unrelated", "scale_layout"), ("scale_layout", "block_scale_zero")),
        (("block_scale_zero", "two_conventions"), ("block_scale_zero", "two_conventions")),
        (("wrong_base", "scale_layout"), ("wrong_base", "scale_layout")),
    ],
)
def test_a_layout_comes_before_the_zeros_and_the_misfits_that_it_explains(
    record: Any, codes: tuple[str, ...], order: tuple[str, str]
) -> None:
    faults = tuple(InspectionFinding(code=code, severity="fault", message=code, expert="transformer") for code in codes)
    report = InspectionReport(reference="r", base=None, outcome="fault", summary="s", findings=faults)
    named = attribute(record(inspection=report), ())
    assert named.cause is not None
    assert (named.cause.code, named.also[0].code) == order


def test_a_layout_explains_nothing_in_the_other_expert(record: Any) -> None:
    faults = (
        InspectionFinding(code="block_scale_zero", severity="fault", message="zero", expert="transformer"),
        InspectionFinding(code="scale_layout", severity="fault", message="layout", expert="transformer_2"),
    )
    report = InspectionReport(reference="r", base=None, outcome="fault", summary="s", findings=faults)
    named = attribute(record(inspection=report), ())
    assert named.cause is not None
    assert named.cause.code == "block_scale_zero"
