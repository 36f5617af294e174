"""Schema of contracts: how a range of versions of a runtime loads a checkpoint, as data.

A contract is either *transcribed* by hand from the runtime's code (``<runtime>.yaml``) or *learned*: ``quantgate
learn`` ran the runtime's own loader over generated checkpoints (``learned/<runtime>-<version>.yaml``). A project's own
``contracts/`` folder may hold both. ``predict`` computes from a contract and a checkpoint's declarations how the
runtime will load it.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.definitions.yaml_tree import YamlError, parse, read_text
from harness.formats.errors import ContractError
from harness.project import Project
from harness.text import one_line

Signal = Literal["packed_qkv", "comfy_quant"]
"""Mark in the tensor names from which a runtime infers a layout."""
Place = Literal["top", "section"]
"""Place of a key in a declaration: its top level, or its section ``quantization`` (ModelOpt's old schema)."""
Reading = Literal["config", "metadata", "tensors"]
"""Source from which a runtime learns how an override is quantized: ``config.json``, header metadata, or tensors."""
Method = Literal["by_algorithm", "nvfp4", "fp8", "fp8_generic", "other"]
PROJECT_FOLDER = "contracts"
"""Folder of a project for its own contracts."""


class Rule(BaseModel):
    """Base of all parts: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SwitchRule(Rule):
    """How a runtime decides one yes-or-no question about the stored NVFP4 bytes.

    The value of a key counts by its Python truth (``"false"`` is true, ``null`` is false) unless ``word`` is set: then
    only exactly that word means yes.
    """

    default: bool
    config_key: str | None = None
    flat: tuple[Place, ...] = Field(
        default=("top",), description="places where the key is looked up, in this order, if quant_algo is at the top"
    )
    nested: tuple[Place, ...] = Field(
        default=("section", "top"), description="the same if quant_algo is in the section"
    )
    implied_by: str | None = Field(default=None, description="top-level key whose value stands in for a silent key")
    word: str | None = None
    inferred_from: tuple[Signal, ...] = ()
    merge: Literal["config", "inferred_or_config"] = "config"
    source: str = ""


class Nvfp4Rule(Rule):
    """How a runtime recognises and reads an NVFP4 transformer."""

    algorithms: tuple[str, ...] = Field(description="names of quant_algo that are accepted, letter for letter")
    families: Literal["weight_and_scale", "u8_and_block_scale"] = Field(
        description="which tensor pairs are NVFP4: any weight with a weight_scale, or U8 with a 2-D E4M3 scale"
    )
    swap_weight_nibbles: SwitchRule
    swizzled_scales: SwitchRule
    source: str = ""


class Fp8Rule(Rule):
    """Which FP8 weight scales a runtime accepts."""

    scale_shapes: tuple[Literal["scalar", "one", "channel", "channel_column"], ...]
    source: str = ""


class Dispatch(Rule):
    """Mapping from the words of a declaration to a loading method."""

    methods: dict[str, Method] = Field(description="quant_method to method; a word that is not listed is refused")
    fp8: tuple[str, ...] = Field(description="globs of quant_algo, in upper case, that mean FP8; asked before nvfp4")
    nvfp4: tuple[str, ...] = Field(description="globs of quant_algo, in upper case, that mean NVFP4")
    source: str = ""


class OverrideRule(Rule):
    """Which declarations a runtime reads of an override: a transformer that replaces a repository's own."""

    reads: tuple[Reading, ...] = Field(min_length=1)
    join: Literal["first", "merged"] = Field(
        description="first: the first source that declares anything decides; merged: joined as for a model"
    )
    undeclared_fp8: Literal["plain", "refused"]
    source: str = ""


class Names(Rule):
    """The runtime's names of the checkpoint's modules. Ignore patterns are compared with these names."""

    rename: dict[str, str] = Field(
        description="regular expression of a tensor's name to the runtime's, first match wins"
    )
    required: tuple[str, ...] = Field(
        default=(),
        description="tensors without which the load stops, by the checkpoint's names; {block}: any block",
    )
    linears: tuple[str, ...] = Field(description="regular expressions of the runtime's modules that can be quantized")


class RegistryRule(Rule):
    """Repository ids that the runtime maps to a native pipeline: exactly, or if a name contains the name of an id."""

    ids: tuple[str, ...]
    otherwise: str = Field(description="what happens to an id that is none of these")
    flow_shift: dict[str, float] = Field(
        default={}, description="flow shift that the runtime uses, by id; the scheduler's own is ignored"
    )
    source: str = ""


class BackendRule(Rule):
    """Choice of the kernel family by environment variable."""

    env: str
    default: str
    choices: tuple[str, ...] = Field(
        default=(), description="globs of the values that select a kernel; any other value is warned of and ignored"
    )
    source: str = ""


class Learned(Rule):
    """How a contract was learned."""

    version: str
    package_sha256: str = Field(
        default="", description="digest of the runtime's wheel, or of its installed files' record"
    )
    date: str
    checkpoints: int = Field(description="generated checkpoints that were asked")
    repositories: int = Field(default=0, description="generated repositories whose schedule was asked for")
    unexplained: tuple[str, ...] = Field(default=(), description="kinds whose answer no rule of the schema explains")
    stubs: tuple[str, ...] = ()
    torch: str = ""


class Rules(Rule):
    """Behaviour of one range of versions."""

    versions: str = Field(description="PEP 440 range, closed towards versions whose source was not read")
    read_at: tuple[str, ...] = Field(min_length=1, description="versions whose code was read, or whose loader was run")
    dispatch: Dispatch
    nvfp4: Nvfp4Rule
    fp8: Fp8Rule
    override: OverrideRule
    names: dict[str, Names] = Field(default={}, description="by transformer class")
    boundary_ratio: float | Literal["model_index", "case"]
    scheduler_refuses: tuple[str, ...] = Field(
        default=(),
        description="keys of scheduler_config.json that stop the load: the runtime's class takes no such argument",
    )
    schedulers: dict[str, tuple[str, ...] | None] = Field(
        default={},
        description="scheduler classes that the runtime has, with the keys of scheduler_config.json that each takes: "
        "another key stops the load; null: any key is taken. Empty: not known, and scheduler_refuses applies",
    )
    registry: RegistryRule | None = None
    backend: BackendRule | None = None
    learned: Learned | None = None

    @field_validator("versions")
    @classmethod
    def _is_range(cls, value: str) -> str:
        try:
            SpecifierSet(value)
        except InvalidSpecifier as error:
            raise ValueError(f"not a version range: {value}") from error
        return value


class ContractFile(Rule):
    """``contracts/<runtime>.yaml``."""

    runtime: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    summary: str
    rules: tuple[Rules, ...] = Field(min_length=1)


class Contract(Rule):
    """A runtime at a version, with the rules that apply to it."""

    name: str
    """The requirement as given: ``sglang==0.5.23``."""
    runtime: str
    version: str
    rules: Rules

    @property
    def read(self) -> bool:
        """Return whether exactly this version was read or learned, and not only another version of its range."""
        return any(Version(self.version) == Version(item) for item in self.rules.read_at)


def _package() -> Path:
    return Path(str(resources.files("harness.inspector.contracts")))


def contract_files(runtime: str, root: Path | None = None) -> list[Path]:
    """Return every file with rules of a runtime: the project's own before the shipped; in each, learned first."""
    folders = [Project(root).contracts] if root is not None else []
    files: list[Path] = []
    for folder in (*folders, _package()):
        files += sorted((folder / "learned").glob(f"{runtime}-*.yaml"))
        files += [path for path in (folder / f"{runtime}.yaml",) if path.is_file()]
    return files


@cache
def _read(place: Path, stamp: tuple[int, int]) -> ContractFile:  # noqa: ARG001 - the stamp keys the cache
    try:
        return ContractFile.model_validate(parse(read_text(place)).plain())
    except (YamlError, ValidationError) as error:
        text = _problems(error) if isinstance(error, ValidationError) else str(error)
        # the file may hold a name of any length
        raise ContractError(
            f"the contract file is malformed: {one_line(text, 2000)}",
            place=str(place),
            remedy="correct the file, or if the runtime is SGLang write it anew: quantgate learn sglang==VERSION",
        ) from error


def _problems(error: ValidationError) -> str:
    """Return the first three problems with their places. Unknown fields come first: a misspelt name causes others."""
    problems = error.errors(include_input=False, include_url=False)
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    sentences = [
        f"{'.'.join(map(str, problem['loc']))}: "
        + ("there is no such field" if problem["type"] == "extra_forbidden" else problem["msg"])
        for problem in problems[:3]
    ]
    return "; ".join(sentences) + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")


def read_contract_file(place: Path) -> ContractFile:
    """Read one contract file. Raises ``ContractError`` if it is malformed."""
    try:
        state = place.stat()
    except OSError as error:
        raise ContractError(f"the contract file cannot be read: {error}", place=str(place)) from error
    # the stamp is part of the cache key: a file edited during a long session is read again
    return _read(place, (state.st_mtime_ns, state.st_size))


def known_contracts(root: Path | None = None) -> tuple[str, ...]:
    """Return the runtimes that have a contract file, shipped or in the project's ``contracts/``."""
    folders = [_package(), *([Project(root).contracts] if root is not None else [])]
    names = {path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")}
    for folder in folders:
        names |= {path.stem.rsplit("-", 1)[0] for path in (folder / "learned").glob("*.yaml")}
    return tuple(sorted(names))


def rules_of(runtime: str, root: Path | None = None) -> list[Rules]:
    """Return all rules of a runtime, the most trusted first: a learned version before a transcribed range."""
    return [rules for path in contract_files(runtime, root) for rules in read_contract_file(path).rules]


def load_contract(name: str, root: Path | None = None) -> Contract:
    """Return the contract for ``runtime==version``.

    A version that no range covers gets the rules of the nearest version below it (or above, if there is none below);
    ``Contract.read`` is false then, and the inspection reports that this version was not read.

    Raises:
        ContractError: unknown runtime, or no exact version.
    """
    try:
        requirement = Requirement(name)
        specifiers = list(requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==":
            raise ContractError(f"{name!r} does not name one version", remedy="write runtime==version")
        version = Version(specifiers[0].version)
    except (InvalidRequirement, InvalidVersion) as error:
        raise ContractError(f"{name!r} is not runtime==version ({error})") from error
    runtime = requirement.name.lower()
    candidates = rules_of(runtime, root)
    if not candidates:
        raise ContractError(
            f"no contract of the runtime {runtime!r} is known",
            remedy=f"known: {', '.join(known_contracts(root))}; add {PROJECT_FOLDER}/{runtime}.yaml to the project",
        )
    for rules in candidates:
        if SpecifierSet(rules.versions).contains(version, prereleases=True):
            return Contract(name=name, runtime=runtime, version=str(version), rules=rules)
    return Contract(name=name, runtime=runtime, version=str(version), rules=_nearest(candidates, version))


def _nearest(candidates: list[Rules], version: Version) -> Rules:
    """Return the rules read at the newest version below, else those read at the oldest version above."""
    read = sorted(((Version(at), rules) for rules in candidates for at in rules.read_at), key=lambda item: item[0])
    below = [rules for at, rules in read if at <= version]
    return below[-1] if below else read[0][1]
