"""Healthy changes: differences between two good runs of one case, forced on purpose to measure their effect."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.definitions.case import Case
from harness.definitions.runner import RunnerProfile
from harness.errors import InvalidCaseError
from harness.machine.devices import cpu_info

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Perturbation:
    """One difference that a healthy run may have."""

    name: str
    env: dict[str, str] = field(default_factory=dict)
    """Added to the engine's environment. Recorded under the subject, never part of the request."""
    threads: int | None = None
    """CPU threads of the engine instead of the case's."""
    attention: str = ""
    """A diffusers attention backend instead of the case's."""
    optional: bool = False
    """Not available on every device and size: if it cannot run, it is reported and skipped."""
    needs: str = ""
    """CPU flag (kernel's name) without which the instruction set cannot be forced."""

    def taken(self, case: Case) -> tuple[str, ...]:
        """Return the variables of this perturbation that the case sets itself: the engine gets the case's values."""
        variables = {*self.env, *(() if self.threads is None else THREAD_VARIABLES)}
        return tuple(sorted(variables & {*case.env, *case.pass_env}))

    def apply(self, case: Case) -> Case:
        """Return the case as it runs under this perturbation."""
        update: dict[str, object] = {} if self.threads is None else {"threads": self.threads}
        if self.attention:
            update["attention_backend"] = self.attention
        return case.model_copy(update={"execution": case.execution.model_copy(update=update)}) if update else case


NONE = Perturbation("none")

CPU: tuple[Perturbation, ...] = (
    Perturbation("isa-default", {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    Perturbation("isa-avx2", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}, needs="avx2"),
    Perturbation("isa-avx512", {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, needs="avx512f"),
    Perturbation("threads-2", threads=2),
    Perturbation("attention-math", attention="_native_math", optional=True),
)
"""The CPU runner's class is the architecture, so its limits must hold on every instruction set that torch dispatches to
(BF16 output differs between them). ``ATEN_CPU_CAPABILITY`` is torch's switch, ``ONEDNN_MAX_CPU_ISA`` that of the
library behind its matrix products: https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html"""

GPU: tuple[Perturbation, ...] = (
    Perturbation("fresh-process-1"),
    Perturbation("fresh-process-2"),
    Perturbation("attention-efficient", attention="_native_efficient", optional=True),
)
"""On a GPU each perturbed run starts a new process. The case fixes everything else."""


def plan(profile: RunnerProfile, cpu_flags: frozenset[str]) -> tuple[Perturbation, ...]:
    """Return the perturbations of a runner that this machine can force."""
    if profile.device_kind == "cuda":
        return GPU
    return tuple(perturbation for perturbation in CPU if not perturbation.needs or perturbation.needs in cpu_flags)


def by_name(name: str) -> Perturbation:
    """Return the perturbation called ``name``.

    Raises:
        InvalidCaseError: no perturbation has that name.
    """
    by_name = {perturbation.name: perturbation for perturbation in (NONE, *CPU, *GPU)}
    if name not in by_name:
        raise InvalidCaseError(f"no perturbation is called {name!r}", remedy=f"one of {', '.join(by_name)}")
    return by_name[name]


def cpu_flags() -> frozenset[str]:
    """Return the instruction set flags of this CPU, as Linux lists them; empty on other systems."""
    return frozenset(cpu_info("flags").split())
