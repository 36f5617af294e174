"""``runners/*.yaml``: the machines that cases run on. A device is matched by its exact name, never by a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from harness.architecture import hardware_class
from harness.definitions.case import Format, Frozen
from harness.definitions.validation import validate
from harness.definitions.yaml_tree import YamlError, parse, read_text, shown
from harness.errors import InvalidCaseError, NoRunnerError
from harness.records.identity import Device
from harness.text import problem_list


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError(f"{text!r} is no version specifier, such as >=2.11") from None
    return text


RESERVED = frozenset({
    "and", "or", "not",
    "filterwarnings", "parametrize", "skip", "skipif", "tryfirst", "trylast", "usefixtures", "xfail",
    "anyio", "asyncio", "benchmark", "dependency", "django_db", "flaky", "forked", "no_cover", "order", "timeout",
    "trio", "xdist_group",
})  # fmt: skip
"""Words of ``-m`` expressions and marks that pytest or a common plugin acts on, whether or not it is installed here.

A case has the names of its runners as marks, so a runner called ``skip`` would switch its cases off. Marks of
plugins that are not listed are refused by pytest itself, see `harness.plugin.refusals`.
"""


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is a word or mark of pytest, which would act on the cases; choose another name")
    return name


RunnerName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$"), AfterValidator(_not_reserved)]
EnvGlob = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_?*]*$")]
Specifier = Annotated[str, AfterValidator(_specifier)]
RuntimeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*==[0-9][0-9A-Za-z.+!-]*$")]
Architecture = Annotated[str, AfterValidator(hardware_class)]


class RunnerProfile(Frozen):
    """One class of machine. Goldens and limits hold for one class only."""

    name: RunnerName = Field(description="name of the file without .yaml, and of the folder of its limits and goldens")
    description: str = ""
    device_kind: Literal["cpu", "cuda"]
    device_names: tuple[str, ...] = Field(
        default=(), description="exact names as NVML and torch report them: `NVIDIA B200`, which is not `NVIDIA GB200`"
    )
    compute_capability: str | None = Field(default=None, pattern=r"^[0-9]{1,2}\.[0-9]$", description="such as 10.0")
    architectures: tuple[Architecture, ...] = Field(
        default=(),
        description="CPU architectures, such as x86_64 and aarch64 (macOS: arm64); frames of one are compared "
        "with the golden of another",
    )
    native_formats: tuple[Format, ...] = Field(
        default=("bf16",), description="number formats that the device has kernels for; others are dequantized"
    )
    marker: RunnerName = Field(description="pytest -m MARKER")
    labels: tuple[str, ...] = Field(min_length=1, description="GitHub runner labels, all of which the job asks for")
    memory_gib: float = Field(default=0, ge=0, description="lowest memory of one device, in GiB")
    driver: str | None = Field(default=None, pattern=r"^[0-9]+(\.[0-9]+)*$", description="lowest driver version")
    packages: dict[str, Specifier] = Field(
        default={}, description="distribution to version specifier, such as torch: '>=2.7'"
    )
    runtimes: dict[RuntimeName, str] = Field(
        default={},
        description="interpreters of runtimes that are installed already: `sglang==0.5.23: "
        "/opt/sglang/bin/python`; others are those that `quantgate runtime install sglang==0.5.23` made",
    )
    harmless_env: tuple[EnvGlob, ...] = Field(
        default=(),
        description="environment variables that change no pixel here, as names or globs such as `NCCL_DEBUG*`; a "
        "value that differs from the golden's is shown and does not make the golden stale",
    )

    @model_validator(mode="after")
    def _says_how_it_is_recognised(self) -> RunnerProfile:
        if self.device_kind == "cuda" and not (self.device_names and self.compute_capability):
            raise ValueError("a cuda runner states device_names and compute_capability")
        if self.device_kind == "cuda" and self.architectures:
            raise ValueError("architectures belong to a cpu runner")
        if self.device_kind == "cpu" and not self.architectures:
            raise ValueError("a cpu runner states its architectures")
        if self.device_kind == "cpu" and (self.device_names or self.compute_capability or self.driver):
            raise ValueError("device_names, compute_capability and driver belong to a cuda runner")
        return self

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Device names of a GPU, architectures of a CPU."""
        return self.device_names if self.device_kind == "cuda" else self.architectures


def load_runners(folder: Path) -> dict[str, RunnerProfile]:
    """Return the profiles by name, in the order of their files.

    Raises:
        InvalidCaseError: a file is wrong, its name is not the profile's, or two profiles share a device or marker.
    """
    root = folder.parent
    profiles: dict[str, RunnerProfile] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        source = shown(path, root)
        try:
            tree = parse(read_text(path))
        except YamlError as error:
            problems += [f"{source}:{line}: {message}" for line, message in error.problems]
            continue
        profile, findings = validate(RunnerProfile, tree.plain(), tree.written)
        for loc, problem in findings:
            line = next((number for end in range(len(loc), 0, -1) if (number := tree.find(loc[:end]))), tree.line)
            problems.append(f"{source}:{line}: {''.join(f'{step}: ' for step in loc)}{problem}")
        if profile is not None and profile.name != path.stem:
            problems.append(f"{source}:{tree.find(('name',))}: name: must be {path.stem!r}, as the file is called")
        elif profile is not None:
            problems += [f"{source}:1: {problem}" for problem in _clashes(profile, profiles.values())]
            profiles[profile.name] = profile
    if problems:
        raise InvalidCaseError(
            problem_list(problems), remedy="correct the runner profile; `quantgate cases` reads it again"
        )
    return profiles


def named_runner(folder: Path, name: str) -> RunnerProfile:
    """Return the profile called ``name``.

    Raises:
        InvalidCaseError: no profile has this name.
    """
    profiles = load_runners(folder)
    if name not in profiles:
        names = ", ".join(profiles)
        raise InvalidCaseError(
            f"there is no runner {name!r}",
            place="--runner",
            remedy=f"name one of the profiles: {names}" if names else f"write {folder / name}.yaml",
        )
    return profiles[name]


def _clashes(profile: RunnerProfile, others: Iterable[RunnerProfile]) -> list[str]:
    problems = []
    for other in others:
        # equal names with different capabilities are different devices for `match_runner`
        if profile.compute_capability == other.compute_capability:
            shared = sorted(set(profile.identifiers) & set(other.identifiers))
            problems += [f"device {name!r} belongs to runner {other.name} already" for name in shared]
        if profile.marker == other.marker:
            problems.append(f"marker {profile.marker!r} belongs to runner {other.name} already")
    return problems


def match_runner(device: Device, profiles: Mapping[str, RunnerProfile]) -> RunnerProfile:
    """Return the runner whose profile names ``device``.

    Raises:
        NoRunnerError: no profile matches: an unknown device is never treated as a known device.
    """
    named = [profile for profile in profiles.values() if _named(device, profile)]
    for profile in named:
        if device.kind == "cpu" or device.compute_capability == profile.compute_capability:
            return profile
    if named:
        profile = named[0]
        raise NoRunnerError(
            f"{device.name!r} reports compute capability {device.compute_capability}, and runner {profile.name} "
            f"is {profile.compute_capability}",
            place=device.uuid or "",
            remedy=f"correct compute_capability in runners/{profile.name}.yaml if the device is right",
        )
    field = "architectures" if device.kind == "cpu" else "device_names"
    raise NoRunnerError(
        f"{device.name!r} ({device.kind}, compute capability {device.compute_capability or '-'}) is of no known runner",
        place=device.uuid or "",
        remedy=f"write runners/<name>.yaml with `{field}: [{device.name}]`, or add the name to the profile it is equal "
        f"to; profiles: {', '.join(sorted(profiles)) or 'none'}",
    )


def _named(device: Device, profile: RunnerProfile) -> bool:
    return device.kind == profile.device_kind and device.name in profile.identifiers
