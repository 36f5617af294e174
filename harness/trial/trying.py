"""Validate another checkpoint, override, environment or runtime for an existing case: ``quantgate try``."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from harness.definitions.case import Case, CheckpointRef, Located
from harness.definitions.checks import HUB_NAME
from harness.definitions.environment import check_name
from harness.definitions.yaml_tree import YamlError, parse, read_text
from harness.engine.resolve import resolve_case
from harness.errors import InvalidCaseError, QuantgateError
from harness.formats.registry import loader_options, runnable_formats
from harness.frames.clip import Clip, read_clip
from harness.goldens.golden import Golden
from harness.inspector.contracts import load_contract
from harness.limits.probes import VELOCITY_BASE
from harness.limits.stored import load_limits
from harness.records.base import Json, Record
from harness.records.generation import Expert, Generation
from harness.records.identity import FieldChange, Identity, differences
from harness.records.inspection import CheckpointComparison, InspectionReport
from harness.records.probe import ProbeEvidence
from harness.runtimes.environments import parse_runtime
from harness.runtimes.learn import changed as changed_rules
from harness.session.conductor import Session
from harness.session.contents import Contents
from harness.session.context import SessionContext
from harness.session.identity import identity_of
from harness.session.inspecting import Inspector, difference, inspect, weight_digests
from harness.session.origin import Origins
from harness.session.probing import ProbeSource, probe_source, record_inputs, run_probes
from harness.session.stages import accepted_goldens, golden_name, look_at_frames
from harness.trial.side_by_side import hold_clips, hold_texts

ROOM = 1.25
"""Largest error of a candidate against the base, as a multiple of the present checkpoint's."""
FLOOR = VELOCITY_BASE.floor
ROLES = ("model", "transformer", "transformer_2")


class ProbePair(Record):
    """One probe of the present configuration and of the candidate, both compared with the base."""

    expert: Expert
    timestep: float
    now: float
    then: float
    limit: float


class Trial(Record):
    """Result of validating a candidate."""

    schema_version: Literal[1] = 1
    case: str
    answer: Literal["safe", "safe_with_changes", "unsafe", "inconclusive"]
    """``safe_with_changes``: safe only together with further keys of the case, which the patch contains."""
    reasons: tuple[str, ...]
    """Reasons for the result, worst first."""
    changes: tuple[FieldChange, ...]
    """Fields of the case's identity that would change."""
    probes: tuple[ProbePair, ...] = ()
    inspection: InspectionReport | None = None
    difference: CheckpointComparison | None = None
    """Differences between the checkpoints; ``None`` if both use the same."""
    contract: tuple[str, ...] = ()
    """Differences between the contracts of both runtime versions, a line per parameter; empty if the runtime stays."""
    must_change: tuple[str, ...] = ()
    """Changes that must be made together with the switch."""
    yaml: dict[str, Json] = {}
    """Keys of the case to set."""
    clips: dict[str, str] = {}
    """Paths of the clips to view side by side: ``now`` (present) and ``then`` (candidate)."""
    distance: str = ""
    """Distance between the two clips, as text; empty if one is missing or their shapes differ."""


@dataclass
class _Findings:
    bad: list[str]
    open: list[str]
    must: list[str]
    with_it: list[str]
    yaml: dict[str, Json]


def candidate_case(
    case: Case, changes: dict[str, CheckpointRef | None], env: dict[str, str], runtime: str = ""
) -> Case:
    """Return the case with other checkpoints, environment or runtime. An override given as ``None`` is removed.

    Raises:
        InvalidCaseError: nothing would change, or the change is not valid in a case file.
    """
    refuse_env(env, case, "--env")
    update: dict[str, object] = {**changes, "env": {**case.env, **env}}
    if runtime:
        if not case.runtime:
            raise InvalidCaseError(
                f"{case.id} runs in backend {case.backend}, which has no versions of a runtime",
                place="--runtime",
                remedy="give the case `backend: sglang` and `runtime: sglang==VERSION`",
            )
        update["runtime"] = str(parse_runtime(runtime))
    changed = case.model_copy(update=update)
    if changed == case:
        raise InvalidCaseError(
            "the candidate is what the case has already",
            place=case.id,
            remedy="name another --model, --transformer, --env or --runtime",
        )
    return changed


def contract_difference(before: str, after: str, root: Path) -> tuple[str, ...]:
    """Return the differences between the contracts of two runtime versions, a line per parameter."""
    if before == after:
        return ()
    return tuple(changed_rules(load_contract(before, root).rules, load_contract(after, root).rules))


def refuse_env(names: Iterable[str], case: Case, option: str) -> None:
    """Check names of variables by the rule of case files, before a variable is set, recorded or shown.

    Raises:
        InvalidCaseError: a variable is a secret, or the backend does not read it. The message omits its value.
    """
    wrong = [problem for name in names if (problem := check_name(name, case.backend, case.pass_env))]
    if wrong:
        raise InvalidCaseError("; ".join(wrong), place=option)


def try_candidate(context: SessionContext, located: Located, candidate: Case) -> Trial:
    """Validate a candidate: inspection, probes of both compared with the base, sanity, generation side by side.

    Properties that the bytes of the candidate prove (formats, nibble order, scale layout) are set in the case before it
    runs, because a user who switches must set them too. If they differ from the case, the answer is at best
    ``safe_with_changes``. Nothing is written to the repository.

    Raises:
        QuantgateError: a checkpoint cannot be resolved, or an engine died while the present configuration ran.
    """
    case, root, folder = located.case, context.root, context.folder / "try" / located.case.id
    findings = _Findings([], [], [], [], {})
    report = inspect(candidate, root, resolve_case(candidate, root))
    as_given, candidate = candidate, _as_proven(candidate, report, findings)
    if candidate != as_given:
        report = inspect(candidate, root, resolve_case(candidate, root))
    _inspected(report, findings, candidate.runtime)
    paths, new_paths = resolve_case(case, root), resolve_case(candidate, root)
    present = inspect(case, root, paths)
    changes = differences(_identity(context, case, present, paths), _identity(context, candidate, report, new_paths))
    trial = Trial(
        case=case.id,
        answer="unsafe",
        reasons=(),
        changes=changes,
        inspection=report,
        difference=None if paths == new_paths else difference(new_paths, paths, root, proof=(report, present)),
        contract=contract_difference(case.runtime, candidate.runtime, root),
        yaml=_yaml(case, candidate, findings),
    )
    # Faulty bytes already make the candidate unsafe, so no engine time is spent on it.
    if findings.bad:
        return _concluded(trial, findings)
    session = Session(context)
    try:
        probes = _probes(context, session, case, candidate, folder, findings)
        clips, distance = _clips(context, session, case, candidate, folder, findings, _experts_changed(changes))
    finally:
        session.close()
    if any(change.identity_class in ("weights", "env", "request") for change in changes):
        command = (
            f"quantgate regenerate --case {case.id} --runner {context.runner.name} --replace-golden --reason '...'"
        )
        findings.must.append(f"golden and limits: {command}")
    return _concluded(trial.model_copy(update={"probes": probes, "clips": clips, "distance": distance}), findings)


def _concluded(trial: Trial, findings: _Findings) -> Trial:
    answer = "unsafe" if findings.bad else "inconclusive" if findings.open else "safe"
    if answer == "safe" and findings.with_it:
        answer = "safe_with_changes"
    clean = f"inspection, probes, text embedding and both clips agree ({trial.distance})"
    reasons = (*findings.bad, *findings.open, *findings.with_it) or (clean,)
    return trial.model_copy(
        update={"answer": answer, "reasons": reasons, "must_change": (*findings.with_it, *findings.must)}
    )


def _as_proven(candidate: Case, report: InspectionReport, findings: _Findings) -> Case:
    formats = {expert.expert: expert.format for expert in report.experts if expert.format in runnable_formats()}
    wanted = {**candidate.quantization.model_dump(), **formats}
    if wanted != candidate.quantization.model_dump():
        findings.with_it.append(f"quantization: {candidate.quantization.model_dump()} -> {wanted}")
        candidate = candidate.model_copy(update={"quantization": candidate.quantization.model_validate(wanted)})
    for expert in report.experts:
        order, _, layout = expert.encoding.partition("/")
        options = loader_options(expert.format)
        options_used = {
            name: value for name, value in (("nibble_order", order), ("scale_layout", layout)) if name in options
        }
        proven = {
            name: value for name, value in options_used.items() if value and value != getattr(candidate.loader, name)
        }
        proven = {
            name: value for name, value in proven.items() if value in ("low_first", "high_first", "linear", "swizzled")
        }
        # A runtime reads the bytes by its contract, not by `loader`; the inspection has compared both already.
        if proven and not candidate.runtime:
            before = f"{candidate.loader.nibble_order}/{candidate.loader.scale_layout}"
            findings.with_it.append(f"loader: {expert.expert} is stored {expert.encoding}, and the case reads {before}")
            candidate = candidate.model_copy(update={"loader": candidate.loader.model_copy(update=proven)})
            findings.yaml |= {f"loader.{name}": value for name, value in proven.items()}
    return candidate


def _inspected(report: InspectionReport, findings: _Findings, runtime: str = "") -> None:
    # only a warning for a deployment; a trial inside that very runtime cannot load the repository
    refused = [finding for finding in report.with_code("scheduler_refused") if runtime and finding.contract == runtime]
    findings.bad += [f"{problem.code}: {problem.message}" for problem in refused]
    findings.bad += [f"{fault.code}: {fault.message}" for fault in report.faults]
    findings.open += [
        f"{finding.code}: {finding.message}" for finding in report.findings if finding.severity == "inconclusive"
    ]
    for contract in report.contracts:
        if contract.agrees is False:
            findings.must.append(f"runtime: {contract.contract} reads {contract.expert} otherwise than its bytes are")


def _yaml(case: Case, candidate: Case, findings: _Findings) -> dict[str, Json]:
    before, after = case.model_dump(mode="json"), candidate.model_dump(mode="json")
    keys: dict[str, Json] = {}
    for name in (*ROLES, "env", "runtime", "quantization"):
        if before[name] != after[name]:
            value = after[name]
            keys[name] = (
                {key: inner for key, inner in value.items() if inner is not None} if isinstance(value, dict) else value
            )
    return {**keys, **findings.yaml}


def _identity(context: SessionContext, case: Case, report: InspectionReport, paths: Mapping[str, Path]) -> Identity:
    files = weight_digests(report, paths["model"])
    identities = [golden.manifest.identity for golden in accepted_goldens(context, case)]
    weights = Contents(paths, files).weights(identities)
    return identity_of(case, context.device, weights, files=files, harmless_env=context.runner.harmless_env)


def _probes(
    context: SessionContext, session: Session, case: Case, candidate: Case, folder: Path, findings: _Findings
) -> tuple[ProbePair, ...]:
    source = _source(context, session, case, folder)
    if source is None:
        findings.open.append("probes: the case has no base to record them from")
        return ()
    now = _run(session, case, source, folder / "now")
    try:
        then = _run(session, candidate, source, folder / "then")
    except QuantgateError as error:
        findings.bad.append(f"the candidate does not run: {error.message}")
        return ()
    _structure(now, then, findings)
    pairs: list[ProbePair] = []
    answers = {(step.expert, step.step): step for step in then.steps}
    for step in now.steps:
        answer = answers.get((step.expert, step.step))
        if answer is None:
            continue
        limit = max(ROOM * step.base_error, FLOOR)
        pairs.append(
            ProbePair(
                expert=step.expert, timestep=step.timestep, now=step.base_error, then=answer.base_error, limit=limit
            )
        )
        if answer.base_error > limit:
            finer = candidate.quantization != case.quantization and answer.base_error <= _FORMAT_COST
            place = f"{step.expert} at timestep {step.timestep:g}"
            text = f"{place}: {answer.base_error:.3g} off the base, now {step.base_error:.3g}"
            (findings.open if finer else findings.bad).append(text)
    if not pairs:
        findings.open.append("probes: no step was compared, so that nothing is known of the experts")
    return tuple(pairs)


def _structure(now: ProbeEvidence, then: ProbeEvidence, findings: _Findings) -> None:
    """Compare both with the recording: parts that only the candidate lacks are bad, parts that ``now`` lacks open."""
    for parts, present, former in (
        ("steps", now.missing_steps, then.missing_steps),
        ("modules", now.missing, then.missing),
    ):
        if lost := sorted(set(former) - set(present)):
            findings.bad.append(f"the candidate lacks {parts} that the recording has: {', '.join(lost[:4])}")
        if present:
            findings.open.append(f"probes: {parts} of the recording that the case lacks now: {', '.join(present[:4])}")


_FORMAT_COST = 0.25
"""Largest velocity error that a format of four bits explains. Up to it, another format leaves the result open."""


def _source(context: SessionContext, session: Session, case: Case, folder: Path) -> ProbeSource | None:
    goldens: tuple[Golden, ...] = context.store.find(context.runner.name, case.id)
    source = probe_source(context, case, goldens[-1:])
    if source is not None:
        return source
    origins = Origins(context, Inspector(context.root))
    recorded = record_inputs(session.pool.get, case, folder / "recording", origins)
    return None if recorded is None else ProbeSource(recorded)


def _run(session: Session, case: Case, source: ProbeSource, folder: Path) -> ProbeEvidence:
    folder.mkdir(parents=True, exist_ok=True)
    bare = ProbeSource(source.inputs)
    return run_probes(session.pool.get(case), case, bare, folder)


def _experts_changed(changes: Iterable[FieldChange]) -> bool:
    """Return whether weights or format of a transformer differ, so that frames may differ but not the video."""
    names = (change.field for change in changes if change.identity_class == "weights")
    return any(name.startswith(("transformer", "quantization.")) for name in names)


def _clips(
    context: SessionContext,
    session: Session,
    case: Case,
    candidate: Case,
    folder: Path,
    findings: _Findings,
    experts_changed: bool,
) -> tuple[dict[str, str], str]:
    """Generate with both, and compare text embeddings and clips. Return the clips' paths and their distance."""
    files: dict[str, str] = {}
    made: dict[str, tuple[Generation, Clip]] = {}
    for label, side in (("then", candidate), ("now", case)):
        try:
            generation = session.pool.get(side).generate(side, folder / label)
        except QuantgateError as error:
            (findings.bad if label == "then" else findings.open).append(f"{label}: {error.message}")
            continue
        clip = read_clip(folder / label / generation.clip)
        files[label] = str(folder / label / generation.clip)
        made[label] = generation, clip
        if label == "then":
            failures = look_at_frames(side, generation, clip).failures
            findings.bad += [f"{check.name}: {check.message}" for check in failures]
    if len(made) < 2:
        return files, ""
    limits = load_limits(context.thresholds, context.runner.name, golden_name(case))
    (now, now_clip), (then, then_clip) = made["now"], made["then"]
    texts = hold_texts(now.trace, then.trace, limits)
    clips = hold_clips(now_clip, then_clip, limits, experts_changed=experts_changed)
    findings.bad += [*texts.bad, *clips.bad]
    findings.open += [*texts.doubts, *clips.doubts]
    return files, clips.distance


def reference(text: str, previous: CheckpointRef | None) -> CheckpointRef:
    """Parse ``./folder``, ``owner/name@commit`` or ``owner/name`` to a reference.

    ``owner/name`` keeps the revision of ``previous`` if that has the same path.

    Raises:
        InvalidCaseError: the text is none of these.
    """
    path, _, revision = text.partition("@")
    if path.startswith(("./", "/")):
        return CheckpointRef(path=path)
    if not HUB_NAME.fullmatch(path) or ".." in path or Path(path).is_dir():
        local = Path(path.partition("/")[0]).is_dir()
        raise InvalidCaseError(
            f"{text!r} is neither ./folder nor owner/name@commit",
            remedy=f"write ./{path.removesuffix('/')}" if local else "write ./folder or owner/name@commit",
        )
    newest = previous.revision if previous is not None and previous.path == path else "unresolved"
    return CheckpointRef(path=path, revision=cast("str", revision or newest))


# Patch the case file with the change, and keep its comments and order.


def patch(path: Path, case: str, changes: Mapping[str, Json], root: Path) -> str:
    """Return the unified diff that sets keys of one case in a case file. Writes nothing.

    Args:
        path: the case file.
        case: id under ``cases:``. A case from a matrix has no entry of its own.
        changes: ``key`` or ``key.inner`` to value, for example ``{"loader.nibble_order": "high_first"}``.
        root: names in the diff are relative to it, so that ``git apply`` accepts the diff.

    Raises:
        InvalidCaseError: the file has no such entry, or cannot be read any more: a trial takes minutes, and the file
            may have been edited meanwhile.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    before = _text_of(path)
    document: Any = yaml.load(before)
    entries: Any = document.get("cases") if isinstance(document, Mapping) else None
    entry: Any = entries.get(case) if isinstance(entries, Mapping) else None
    if not isinstance(entry, CommentedMap):
        raise InvalidCaseError(
            f"{case} has no entry of its own there", place=str(path), remedy="change its matrix by hand"
        )
    plain = io.StringIO()
    yaml.dump(document, plain)
    for name, value in changes.items():
        outer, _, inner = name.partition(".")
        if not inner:
            entry[outer] = _flow(value, CommentedMap)
            continue
        if not isinstance(entry.get(outer), CommentedMap):
            entry[outer] = _flow({}, CommentedMap)
        entry[outer][inner] = value
    after = io.StringIO()
    yaml.dump(document, after)
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    lines = difflib.unified_diff(
        _changed_only(before, plain.getvalue(), plain.getvalue()).splitlines(keepends=True),
        _changed_only(before, plain.getvalue(), after.getvalue()).splitlines(keepends=True),
        f"a/{name}",
        f"b/{name}",
    )
    return "".join(lines)


def _text_of(path: Path) -> str:
    """Return the text of a case file that the strict parser accepts, so that ruamel.yaml reads no other."""
    try:
        text = read_text(path)
        parse(text)
    except YamlError as error:
        line, message = error.problems[0]
        raise InvalidCaseError(
            message, place=f"{path}:{line}", remedy="correct the file, and run quantgate try again"
        ) from None
    return text


def _changed_only(original: str, normal: str, changed: str) -> str:
    """Return ``changed`` with the original text of lines that only the YAML writer formatted differently."""
    if original == normal:
        return changed
    written = dict(_pairs(normal.split("\n"), original.split("\n")))
    return "\n".join(written.get(line, line) for line in changed.split("\n"))


def _pairs(normal: list[str], original: list[str]) -> list[tuple[str, str]]:
    matcher = difflib.SequenceMatcher(a=normal, b=original, autojunk=False)
    pairs: list[tuple[str, str]] = []
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        if tag == "replace" and a2 - a1 == b2 - b1:
            pairs += list(zip(normal[a1:a2], original[b1:b2], strict=True))
    return pairs


def _flow(value: Json, kind: type) -> Any:
    if not isinstance(value, dict):
        return value
    made = kind(value)
    made.fa.set_flow_style()
    return made
