"""Learn a contract: run a runtime's own loader over generated checkpoints, and fit the schema's parameters.

The schema of a contract (`harness.inspector.contracts.model`) is a model of a loader with a few discrete parameters.
Each parameter is set to the value under which most predictions agree with the loader's results. Kinds that no value
explains are listed in the contract as ``unexplained``; nothing is guessed for them.
"""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from harness.errors import InfraError
from harness.inspector.contracts.model import ContractFile, Learned, Rules, rules_of
from harness.inspector.contracts.predict import Declared, predict
from harness.reading import as_json
from harness.records.temporary import scratch_folder
from harness.runtimes.environments import Environment, RuntimeVersion, own_environment
from harness.runtimes.kinds import Kind, base_kind, write_kind
from harness.runtimes.outcomes import Outcome, declared_of, predicted_outcome, real_outcome
from harness.runtimes.repositories import (
    Repository,
    answered_sampling,
    predicted_sampling,
    repositories,
    write_repository,
)

READER = Path(__file__).with_name("sglang_reader.py")
ROUNDS = 4
SECONDS = 900.0
"""Longest time that one runtime gets for all checkpoints (it takes one to two minutes)."""
RESTARTS = 3
"""Times that a reader is started again after it died; the checkpoint that killed it counts as refused."""


@dataclass(frozen=True)
class Asked:
    """One kind, its declarations, and the outcome of loading it in the runtime."""

    kind: Kind
    declared: Declared
    outcome: Outcome


@dataclass(frozen=True)
class Answers:
    """Outcomes of all kinds in one version of a runtime."""

    name: RuntimeVersion
    rows: tuple[Asked, ...]
    facts: Mapping[str, Any]
    """Facts that the reader reports of the runtime: registry, schedulers, names, methods, stubs, torch."""
    sampling: Mapping[str, str] = field(default_factory=dict)
    """Repository's name to the schedule that the runtime takes of it."""


def ask(
    environment: Environment,
    kinds: Sequence[Kind],
    report_line: Callable[[str], None],
    asked: Sequence[Repository] = (),
) -> Answers:
    """Write the kinds to a temporary folder and run the reader over them in the runtime's environment.

    Args:
        environment: environment of the runtime.
        kinds: the checkpoints to load.
        asked: repositories whose schedule is asked for.
        report_line: called with a line per step and per twenty checkpoints.

    Raises:
        InfraError: the runtime cannot be imported, or did not end in time.
    """
    with scratch_folder("quantgate-learn-") as folder:
        report_line(f"writing {len(kinds)} checkpoints")
        write_kind(base_kind(), folder / "base")
        jobs: list[dict[str, str | None]] = [
            {"name": kind.name, "folder": str(write_kind(kind, folder / kind.name)), "role": kind.role}
            for kind in kinds
        ]
        jobs += [
            {
                "name": item.name,
                "folder": str(write_repository(item, folder / "repositories" / item.name)),
                "role": "repository",
                "model_id": item.model_id,
            }
            for item in asked
        ]
        (folder / "jobs.json").write_text(json.dumps({"base": str(folder / "base"), "checkpoints": jobs}))
        answers = folder / "answers.jsonl"
        _read(environment, folder / "jobs.json", answers, len(jobs), report_line)
        by_name = {row["name"]: row for row in map(json.loads, answers.read_text(encoding="utf-8").splitlines())}
        rows = []
        for kind in kinds:
            declared = declared_of(kind)
            answer = by_name.get(kind.name, {"loaded": False, "error": "the runtime died over it"})
            rows.append(Asked(kind, declared, real_outcome(answer, kind, declared)))
        sampling = {item.name: answered_sampling(by_name.get(item.name, {"loaded": False})) for item in asked}
    return Answers(environment.name, tuple(rows), by_name.get("_runtime", {}), sampling)


def _read(environment: Environment, jobs: Path, answers: Path, count: int, report_line: Callable[[str], None]) -> None:
    variables = own_environment()
    # the checkpoints are small: threads gain nothing, and no GPU is needed to load them
    variables |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for _ in range(RESTARTS + 1):
        report_line(f"starting {environment.name} ({environment.python})")
        last: list[str] = []
        with subprocess.Popen(
            [str(environment.python), str(READER), str(jobs), str(answers)],
            env=variables, cwd=jobs.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        ) as process:  # fmt: skip
            watchdog = threading.Timer(SECONDS, process.kill)  # a timer also ends a reader that prints nothing
            watchdog.start()
            try:
                for line in process.stderr or ():
                    head = line.split(" of ", 1)[0]
                    if not (head.isdigit() and " of " in line):
                        last = [*last[-4:], line.strip()]
                    elif int(head) % 20 == 0 or int(head) == count:
                        report_line(f"{head} of {count} checkpoints")
                code = process.wait()
            finally:
                timed_out = not watchdog.is_alive()
                watchdog.cancel()
        if timed_out:
            raise InfraError(f"{environment.name} did not answer within {SECONDS:.0f} s", kind="hang")
        if code == 0:
            return
        lines = answers.read_text(encoding="utf-8").splitlines() if answers.exists() else []
        if not lines:
            raise InfraError(f"{environment.name} cannot be asked: {' | '.join(last)[-400:]}", kind="crash")
        names = [item["name"] for item in json.loads(jobs.read_text())["checkpoints"]]
        fatal = next((name for name in names if name not in {json.loads(row)["name"] for row in lines}), None)
        # it died after its last answer, so that none is missing
        if fatal is None:
            return
        with answers.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"name": fatal, "loaded": False, "error": f"the process ended with code {code}"}) + "\n"
            )
    raise InfraError(f"{environment.name} died {RESTARTS + 1} times", kind="crash")


def disagreements(rules: Rules, rows: Sequence[Asked], limit: int | None = None) -> list[tuple[Asked, Outcome]]:
    """Return the kinds whose predicted outcome differs from the runtime's, with the prediction.

    ``limit``: stop at so many.
    """
    wrong: list[tuple[Asked, Outcome]] = []
    for row in rows:
        if len(wrong) == limit:
            break
        outcome = predicted_outcome(predict(rules, row.declared), row.kind, row.declared)
        if outcome != row.outcome:
            wrong.append((row, outcome))
    return wrong


def _unexplained_first(rules: Rules, rows: Sequence[Asked]) -> tuple[Asked, ...]:
    """Return the rows with those that the rules do not explain in front: a search that stops early looks at them first.

    Most values of a parameter leave them unexplained, so that a few predictions refuse a value.
    """
    wrong = {row.kind.name for row, _ in disagreements(rules, rows)}
    return tuple(sorted(rows, key=lambda row: row.kind.name not in wrong))


def schedule_disagreements(rules: Rules, sampling: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return the repositories whose predicted schedule differs from the runtime's: name, predicted, real."""
    rows = [(item.name, predicted_sampling(rules, item), sampling.get(item.name)) for item in repositories()]
    return [(name, predicted, real) for name, predicted, real in rows if real is not None and predicted != real]


def _choices() -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Yield the path of every parameter of the schema that is fitted, with its candidate values."""
    places = [("top",), ("section", "top"), ("top", "section"), ("section",), ()]
    yield ("nvfp4", "families"), ["weight_and_scale", "u8_and_block_scale"]
    yield (
        ("nvfp4", "algorithms"),
        [("NVFP4",), ("NVFP4", "nvfp4"), ("NVFP4", "NVFP4_AWQ"), ("NVFP4", "NVFP4_AWQ", "W4A16_NVFP4")],
    )
    yield ("dispatch", "fp8"), [("*FP8*",), ("FP8",), ("FP8", "FP8_*")]
    yield ("dispatch", "nvfp4"), [("*FP4*",), ("NVFP4",), ("*NVFP4*",)]
    for switch, key, implied in (
        ("swap_weight_nibbles", "swap_weight_nibbles", "checkpoint_uses_packed_qkv"),
        ("swizzled_scales", "checkpoint_weight_scale_layout", None),
    ):
        at = ("nvfp4", switch)
        yield (*at, "default"), [True, False]
        yield (*at, "config_key"), [key, None]
        yield (*at, "flat"), places
        yield (*at, "nested"), places
        yield (*at, "implied_by"), [None, implied] if implied else [None]
        yield (*at, "inferred_from"), [(), ("comfy_quant",), ("packed_qkv", "comfy_quant")]
        yield (*at, "merge"), ["config", "inferred_or_config"]
        yield (*at, "word"), [None, "swizzled"] if switch == "swizzled_scales" else [None]
    shapes = ["scalar", "one", "channel", "channel_column"]
    yield ("fp8", "scale_shapes"), [tuple(shapes[:count]) for count in range(1, 5)]
    sources = ("config", "metadata", "tensors")
    orders = [order for size in (1, 2, 3) for order in itertools.permutations(sources, size)]
    yield ("override",), [
        {"reads": order, "join": join, "undeclared_fp8": bare}
        for join in ("first", "merged") for order in orders for bare in ("plain", "refused")
    ]  # fmt: skip


def fit(start: Rules, answers: Answers) -> tuple[Rules, list[str]]:
    """Set every parameter to the value that explains most outcomes.

    Args:
        start: rules to start from, of another version or even wrong.
        answers: outcomes in the version to learn.

    Returns:
        The rules, and the names of the kinds that they do not explain.
    """
    body = start.model_dump(mode="json")
    body |= {"versions": f"=={answers.name.version}", "read_at": [str(answers.name.version)], "learned": None}
    methods = body["dispatch"]["methods"]
    if answers.facts.get("methods"):
        body["dispatch"]["methods"] = {
            **{
                word: methods[word]
                for word in methods
                if word in answers.facts["methods"] or word.startswith("modelopt")
            },
            **{word: "other" for word in answers.facts["methods"] if word not in methods},
        }
    if answers.facts.get("names"):
        for names in body["names"].values():
            names["rename"] = dict(answers.facts["names"])
    rows = _unexplained_first(Rules.model_validate(body), answers.rows)
    best = len(disagreements(Rules.model_validate(body), rows))
    # parameters interact, so one pass over them may miss a better value: repeat until a pass improves nothing
    for _ in range(ROUNDS):
        before = best
        for path, candidates in _choices():
            for candidate in candidates if best else ():
                tried = _with(body, path, candidate)
                rules = Rules.model_validate(tried)
                # only a strict gain moves a parameter: if no outcome decides it, the value of the start stays
                if len(disagreements(rules, rows, limit=best)) < best:
                    body, rows = tried, _unexplained_first(rules, rows)
                    best = len(disagreements(rules, rows))
        if best == before:
            break
    rules = Rules.model_validate(body)
    return rules, [row.kind.name for row, _ in disagreements(rules, answers.rows)]


def _with(body: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = as_json(body)
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = {**at[path[-1]], **value} if isinstance(value, dict) else value
    return copy


def contract_of(answers: Answers, environment: Environment, root: Path | None = None) -> ContractFile:
    """Return the contract that explains a version's outcomes.

    The fit starts from the transcribed rules that explain most outcomes.
    """
    contracts = [rules for rules in rules_of(answers.name.runtime, root) if rules.learned is None]
    start = min(contracts, key=lambda rules: len(disagreements(rules, answers.rows)))
    rules, unexplained = fit(start, answers)
    if answers.facts.get("schedulers"):
        rules = rules.model_copy(update={"schedulers": answers.facts["schedulers"], "scheduler_refuses": ()})
    rules = rules.model_copy(update={"registry": _registry(rules, answers)})
    unexplained += [name for name, _, _ in schedule_disagreements(rules, answers.sampling)]
    learned = Learned(
        version=str(answers.name.version),
        package_sha256=package_digest(environment),
        date=datetime.now(UTC).date().isoformat(),
        checkpoints=len(answers.rows),
        repositories=len(answers.sampling),
        unexplained=tuple(unexplained),
        stubs=tuple(answers.facts.get("stubs", ())),
        torch=str(answers.facts.get("torch", "")),
    )
    rules = rules.model_copy(update={"learned": learned})
    summary = f"{answers.name}, learned by running its loader over {len(answers.rows)} generated checkpoints"
    return ContractFile(runtime=answers.name.runtime, summary=summary, rules=(rules,))


def _registry(rules: Rules, answers: Answers) -> Any:
    """Return the registry rule with the flow shifts of the runtime's own registry."""
    rows = answers.facts.get("registry") or {}
    if rules.registry is None or not rows:
        return rules.registry
    shifts = {
        name: float(rows[name]["flow_shift"])
        for name in rules.registry.flow_shift
        if isinstance(rows.get(name, {}).get("flow_shift"), int | float)
    }
    return rules.registry.model_copy(update={"flow_shift": shifts})


def package_digest(environment: Environment) -> str:
    """Return the sha256 of the installed distribution's RECORD, which lists every file's digest; empty if absent."""
    name = environment.name.runtime
    code = (
        "import hashlib, importlib.metadata as m; "
        f"text = m.distribution({name!r}).read_text('RECORD') or ''; "
        "lines = sorted(line for line in text.splitlines() if '.dist-info/' not in line and "
        "'__pycache__' not in line); "
        "print(hashlib.sha256('\\n'.join(lines).encode()).hexdigest() if lines else '')"
    )
    completed = subprocess.run(
        [str(environment.python), "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return completed.stdout.strip() if completed.returncode == 0 else ""


def as_yaml(contract: ContractFile) -> str:
    """Return the text of a contract file."""
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    body = contract.model_dump(mode="json", exclude_defaults=True)
    yaml.dump(body, out)
    name = contract.rules[0].learned
    version = name.version if name else ""
    head = f"# Written by `quantgate learn {contract.runtime}=={version}`. Do not edit: learn it again.\n"
    return head + out.getvalue()


def changed(before: Rules, after: Rules) -> list[str]:
    """Return the differences between two sets of rules, a line per parameter, for people."""
    lines: list[str] = []

    def walk(path: str, old: Any, new: Any) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for key in sorted({*old, *new}):
                walk(f"{path}.{key}" if path else key, old.get(key), new.get(key))
        elif old != new:
            lines.append(f"{path}: {json.dumps(old)} -> {json.dumps(new)}")

    skip = {"versions", "read_at", "learned", "source"}
    walk("", *(rules.model_dump(mode="json", exclude=skip) for rules in (before, after)))
    return [
        line for line in lines if ".source:" not in line and "names." not in line and "dispatch.methods" not in line
    ]
