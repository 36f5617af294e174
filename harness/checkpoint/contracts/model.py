"""The shape of a contract file, and how ``sglang==0.5.23`` finds its rules."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.checkpoint.errors import ContractError

Signal = Literal["packed_qkv", "comfy_quant"]
"""Something in the tensor names from which a runtime infers a layout."""


class Rule(BaseModel):
    """Base of all parts: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SwitchRule(Rule):
    """How a runtime decides a yes-or-no of the stored bytes."""

    default: bool
    config_key: str | None = None
    implied_by: tuple[str, ...] = Field(default=(), description="config keys whose value stands in for a silent key")
    inferred_from: tuple[Signal, ...] = ()
    merge: Literal["config", "inferred_or_config"] = "config"
    source: str


class MissingRule(Rule):
    """What happens where a scale tensor is absent."""

    policy: Literal["ones", "refuse"]
    source: str


class RegistryRule(Rule):
    """Repository ids that the runtime maps to a native pipeline: exactly, or where its name contains a known name."""

    known: tuple[str, ...]
    otherwise: str = Field(description="what happens to an id that is not known")
    source: str


class BackendRule(Rule):
    """Which kernel family runs, by environment variable."""

    env: str
    default: str
    choices: tuple[str, ...] = ()
    source: str


class Rules(Rule):
    """What one range of versions does."""

    versions: str = Field(description="PEP 440 range")
    read_at: tuple[str, ...] = Field(min_length=1, description="versions whose code the rules were read from")
    swap_weight_nibbles: SwitchRule
    swizzled_scales: SwitchRule
    missing_nvfp4_scales: MissingRule
    missing_fp8_scales: MissingRule
    fp8_scale_shapes: tuple[Literal["scalar", "one", "channel", "channel_column"], ...]
    declarations: tuple[Literal["config.json", "hf_quant_config.json", "shard metadata", "tensors"], ...] = Field(
        description="where the runtime looks for a declaration of a full repository, in this order"
    )
    boundary_ratio: float | Literal["model_index", "case"]
    registry: RegistryRule | None = None
    backend: BackendRule | None = None
    names: dict[str, tuple[str, ...]] = Field(default={}, description="by transformer class: names it can map (regex)")

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
    """As asked for: ``sglang==0.5.23``."""
    runtime: str
    version: str
    rules: Rules

    @property
    def read(self) -> bool:
        """Whether exactly this version was read, or only one that shares its range."""
        return self.version in self.rules.read_at


@cache
def _file(runtime: str) -> ContractFile:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    place = resources.files("harness.checkpoint.contracts").joinpath(f"{runtime}.yaml")
    if not place.is_file():
        raise ContractError(
            f"no contract of the runtime {runtime!r} is known",
            remedy=f"known: {', '.join(known_contracts())}; add harness/checkpoint/contracts/{runtime}.yaml",
        )
    try:
        return ContractFile.model_validate(YAML(typ="safe", pure=True).load(place.read_text(encoding="utf-8")))
    except (YAMLError, ValidationError) as error:
        raise ContractError(f"the contract file is malformed: {error}", where=str(place)) from error


@cache
def known_contracts() -> tuple[str, ...]:
    """Runtimes for which a contract file exists."""
    folder = resources.files("harness.checkpoint.contracts")
    return tuple(sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".yaml")))


def load_contract(name: str) -> Contract:
    """Find the rules for ``runtime==version``.

    Raises:
        ContractError: unknown runtime, no exact version, or a version outside every range.
    """
    try:
        requirement = Requirement(name)
        specifiers = list(requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==":
            raise ContractError(f"{name!r} does not name one version", remedy="write runtime==version")
        version = Version(specifiers[0].version)
    except (InvalidRequirement, InvalidVersion) as error:
        raise ContractError(f"{name!r} is not runtime==version ({error})") from error
    file = _file(requirement.name.lower())
    for rules in file.rules:
        if SpecifierSet(rules.versions).contains(version, prereleases=True):
            return Contract(name=name, runtime=file.runtime, version=str(version), rules=rules)
    ranges = "; ".join(rules.versions for rules in file.rules)
    raise ContractError(f"no rules of {file.runtime} cover version {version}", remedy=f"known ranges: {ranges}")
