"""Compares the proven encoding with the assumptions of each runtime: sentences with both, the rule and the remedy."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from harness.inspector.checks.encoding import WORDS, own_related, with_base
from harness.inspector.checks.registration import check
from harness.inspector.context import Context
from harness.inspector.contracts import Resolved, resolve
from harness.inspector.contracts.resolve import remedies, resolve_loader
from harness.inspector.contracts.sampling import UNKNOWN_SHIFT, predict_sampling, short_name
from harness.inspector.findings import about, finding
from harness.inspector.gates import gate_of
from harness.inspector.measure import Measured
from harness.records.inspection import InspectionFinding
from harness.text import listed


def resolved(context: Context, expert: str) -> list[Resolved]:
    """Return the assumptions of every requested runtime, and of the harness's own loader, about an expert."""
    component, options = context.experts[expert], context.options
    runtimes = [resolve(contract, component, options.env) for contract in options.contracts]
    return ([resolve_loader(options.loader)] if options.loader is not None else []) + runtimes


def proven_readings(context: Context, expert: str) -> dict[str, Measured]:
    """Return the modules whose NVFP4 reading the bytes prove."""
    return {
        name: item
        for name, item in own_related(context, expert).items()
        if item.module.spec.loader_options
        and item.fit
        and item.fit.scores[item.fit.best].cosine >= gate_of(item).cosine
    }


@check("contracts", cost="rows", codes=("nibble_order", "scale_layout", "contract_unproven"), order=340)
def contracts(context: Context) -> Iterator[InspectionFinding]:
    """Report runtimes that will assume another nibble order or scale layout than the proven, with the rule."""
    for expert in context.experts:
        proven = proven_readings(context, expert)
        for runtime in resolved(context, expert):
            if runtime.contract is not None and (runtime.prediction.refused or runtime.prediction.method != "nvfp4"):
                continue  # nothing is read as NVFP4: contract_predictions says so
            for code, part, assumed, rule in (
                ("nibble_order", 0, runtime.nibble_order, runtime.nibble_rule),
                ("scale_layout", 1, runtime.scale_layout, runtime.layout_rule),
            ):
                wrong = sorted(
                    name for name, item in proven.items() if item.fit and item.fit.best.split("/")[part] != assumed
                )
                if wrong:
                    yield _mismatch(expert, runtime, code, part, assumed, rule, wrong, proven[wrong[0]])
            if not proven and any(module.spec.loader_options for module in context.quantized(expert).values()):
                yield about(
                    "contract_unproven",
                    expert,
                    f"{runtime.name} will read {WORDS[runtime.nibble_order]} ({runtime.nibble_rule}); "
                    "the bytes alone do not prove that this is right.",
                    severity="inconclusive",
                    contract=runtime.name,
                    next_command=with_base(context.experts[expert]),
                )


def _mismatch(
    expert: str, runtime: Resolved, code: str, part: int, assumed: str, rule: str, wrong: list[str], item: Measured
) -> InspectionFinding:
    fit = item.fit
    assert fit is not None  # noqa: S101 - only proven modules come here
    proven = fit.best.split("/")
    other = "/".join(assumed if index == part else word for index, word in enumerate(proven))
    as_assumed = fit.scores[other].cosine if other in fit.scores else None
    against = f" against {as_assumed:.3f}" if as_assumed is not None else ""
    if runtime.contract is None:
        remedy = f"set loader.{code}: {proven[part]} in the case"
    else:
        tried = remedies(runtime, proven[0], proven[1])
        remedy = (
            ", or ".join(tried) or f"no setting of this checkpoint changes that: store the weights {WORDS[assumed]}"
        )
    return about(
        code,
        expert,
        f"bytes say {WORDS[proven[part]]} (cos {fit.scores[fit.best].cosine:.3f}{against}); "
        f"{runtime.name} will read {WORDS[assumed]} ({rule}); {remedy}.",
        linears=wrong,
        contract=runtime.name,
        next_command=remedy,
        proven=fit.best,
        assumed=assumed,
        rule=rule,
        source=runtime.source,
        cosine={name: score.cosine for name, score in fit.scores.items()},
    )


@check(
    "contract_predictions",
    cost="header",
    codes=(
        "contract_unread",
        "contract_unmodelled",
        "runtime_refuses",
        "name_unmapped",
        "scale_shape",
        "declaration_unseen",
        "scope_differs",
        "scale_missing",
        "input_scale_missing",
    ),
    order=360,
)
def contract_predictions(context: Context) -> Iterator[InspectionFinding]:
    """Report checkpoints that a runtime refuses, and Linears that it loads in another format or fills with ones."""
    for expert in context.experts:
        stored = frozenset(context.quantized(expert))
        for runtime in resolved(context, expert):
            if runtime.contract is None:
                continue
            prediction = runtime.prediction
            if not runtime.contract.read:
                yield _unread(expert, runtime)
            if prediction.unmodelled:
                yield about(
                    "contract_unmodelled",
                    expert,
                    f"the contract of {runtime.name} has no rule for "
                    f"{prediction.unmodelled}: whether it reads "
                    "this checkpoint right is not known.",
                    severity="inconclusive",
                    contract=runtime.name,
                    next_command="run the case in that runtime, or name another contract",
                )
            elif prediction.refused:
                yield about(
                    prediction.refused_code,
                    expert,
                    f"{runtime.name} refuses the checkpoint: {prediction.refused}.",
                    contract=runtime.name,
                    next_command="declare the quantization as that runtime takes it, or use another version of it",
                    reason=prediction.refused,
                )
            else:
                yield from _loaded_otherwise(expert, runtime, stored)


def _loaded_otherwise(expert: str, runtime: Resolved, stored: frozenset[str]) -> Iterator[InspectionFinding]:
    """Yield the faults of a checkpoint that the runtime loads without an error."""
    prediction, name = runtime.prediction, runtime.name
    if stored and not prediction.quantized:
        yield about(
            "declaration_unseen",
            expert,
            f"{name} finds no quantization where it looks: it loads the {len(stored)} stored "
            f"quantized Linears "
            "as unquantized.",
            contract=name,
            next_command="write quantization_config into the transformer's config.json",
            stored=len(stored),
        )
    elif prediction.quantized != stored and (stored or prediction.quantized):
        more, fewer = sorted(prediction.quantized - stored), sorted(stored - prediction.quantized)
        parts = [f"quantizes {len(more)} that are stored in full precision ({listed(more)})"] if more else []
        parts += [f"leaves {len(fewer)} stored quantized ones unquantized ({listed(fewer)})"] if fewer else []
        yield about(
            "scope_differs",
            expert,
            f"{name} runs {len(prediction.quantized)} Linears quantized and {len(stored)} are stored so: it "
            f"{' and '.join(parts)}. Its ignore list is `*` globs over its own module names, each matched whole.",
            module=(more or fewer)[0],
            contract=name,
            next_command="write the ignore list as globs such as blocks.0*, condition_embedder*, proj_out",
            more=more[:20],
            fewer=fewer[:20],
        )
    # of Linears that are stored quantized only: for the others a scale of 1 is right
    ones = sorted(prediction.scale_of_one & stored)
    if ones:
        yield about(
            "scale_missing",
            expert,
            f"{name} fills the absent weight scales of {listed(ones)} with 1: their weights get another gain.",
            linears=ones,
            contract=name,
        )
    inputs = sorted(prediction.input_scale_of_one & stored)
    if inputs:
        yield about(
            "input_scale_missing",
            expert,
            f"{name} fills the absent input scales of {len(inputs)} Linears ({listed(inputs)}) "
            f"with 1 and keeps "
            "them static, whatever the declaration says of dynamic inputs.",
            linears=inputs,
            contract=name,
            next_command="export with calibrated input scales",
        )


def _unread(expert: str, runtime: Resolved) -> InspectionFinding:
    contract = runtime.contract
    assert contract is not None  # noqa: S101 - only contracts come here
    read = ", ".join(contract.rules.read_at)
    return about(
        "contract_unread",
        expert,
        f"nobody read or ran {contract.name}; its rules are taken from {read}, and defaults change between versions.",
        severity="inconclusive",
        contract=contract.name,
        next_command=f"quantgate learn {contract.name}",
        read_at=list(contract.rules.read_at),
    )


@check("contract_settings", cost="header", codes=("backend_unknown",), order=350)
def contract_settings(context: Context) -> Iterator[InspectionFinding]:
    """Report settings in ``env`` that a runtime does not accept."""
    for contract in context.options.contracts:
        backend = contract.rules.backend
        chosen = context.options.env.get(backend.env) if backend is not None else None
        listed = backend is None or any(fnmatch.fnmatchcase(chosen or "", choice) for choice in backend.choices)
        if backend is not None and chosen and backend.choices and not listed:
            yield finding(
                "warning",
                "backend_unknown",
                f"{backend.env}={chosen}: {contract.name} has {', '.join(backend.choices)}; it warns and runs "
                f"{backend.default}.",
                contract=contract.name,
                evidence={"asked": chosen, "choices": list(backend.choices), "source": backend.source},
                next_command=f"set {backend.env} in the case's env to one of them, or take it out",
            )


@check("contract_schedule", cost="header", codes=("contract_schedule", "scheduler_refused"), order=370)
def contract_schedule(context: Context) -> Iterator[InspectionFinding]:
    """Say which flow shift and boundary each runtime will sample with, and which of the files it does not read."""
    model = next((item for item in context.experts.values() if item.role == "model"), None)
    if model is None or context.model_index is None:
        return
    for contract in context.options.contracts:
        repository = None if model.source.is_local else model.source.label.split("@")[0]
        expected = predict_sampling(contract.rules, context.model_index, context.scheduler, repository)
        if expected.refused:
            yield finding(
                "warning",
                "scheduler_refused",
                f"{contract.name} does not load this repository: {expected.refused}.",
                contract=contract.name,
                evidence={"reason": expected.refused, "keys": list(expected.refused_keys)},
                next_command="correct model_index.json or scheduler_config.json, or use another version",
            )
        registry = contract.rules.registry
        if registry is None or not registry.flow_shift:
            continue
        shifts = ", ".join(f"{shift:g} as {_base(item)}" for item, shift in registry.flow_shift.items())
        names = expected.known_as
        shift = (
            f"{expected.flow_shift:g} (as {names})"
            if names
            else f"by model_id: {shifts}, and {UNKNOWN_SHIFT:g} without one"
        )
        boundary = contract.rules.boundary_ratio
        index = context.model_index.get("boundary_ratio")
        switch = f"{index} (model_index.json)" if boundary == "model_index" else f"{boundary}"
        experts = f"experts switch at {switch}"
        if not expected.two_experts and not expected.refused:
            experts = (
                "`transformer` serves every step, since model_index.json lacks a second expert or a boundary_ratio"
            )
        written = context.scheduler.get("flow_shift", context.scheduler.get("shift"))
        suffix = f", which says flow_shift {written:g}" if isinstance(written, int | float) else ""
        yield finding(
            "info",
            "contract_schedule",
            f"{contract.name} will sample with flow_shift {shift}; {experts}; "
            f"the values of scheduler/scheduler_config.json are not used{suffix}.",
            contract=contract.name,
            evidence={
                "flow_shift": expected.flow_shift if names else dict(registry.flow_shift),
                "boundary_ratio": index if boundary == "model_index" else boundary,
                "experts": ["transformer", "transformer_2"][: 1 + expected.two_experts],
                "ignored_files": ["scheduler/scheduler_config.json"],
                "written_flow_shift": written,
                "otherwise": registry.otherwise,
                "source": registry.source,
            },
        )


def _base(repository: str) -> str:
    return repository.rsplit("/", 1)[-1]


@check("contract_repositories", cost="header", codes=(), notes=("repository_unregistered",), order=380)
def contract_repositories(context: Context) -> Iterator[InspectionFinding]:
    """Report repositories that a runtime does not recognise by name."""
    for contract in context.options.contracts:
        registry = contract.rules.registry
        model = next((item for item in context.experts.values() if item.role == "model"), None)
        if registry is None or model is None or model.source.is_local:
            continue
        name = model.source.label.split("@")[0]
        if name not in registry.ids and not any(short_name(item) in short_name(name) for item in registry.ids):
            yield finding(
                "warning",
                "repository_unregistered",
                f"{contract.name} does not know {name}: {registry.otherwise}.",
                contract=contract.name,
                evidence={"source": registry.source},
            )
