"""What the items of one pytest run share: runner, device, session context, engine pool, records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.definitions.case import Located
from harness.errors import NoRunnerError
from harness.plugin import options
from harness.records.case_record import CaseRecord
from harness.records.fingerprint import Device
from harness.records.verdict import RULES, Outcome, worst

if TYPE_CHECKING:
    from harness.definitions.runner import RunnerProfile
    from harness.session.conductor import Session

_KEY: pytest.StashKey[PluginState] = pytest.StashKey()
_PYTESTS_OWN = (int(pytest.ExitCode.OK), int(pytest.ExitCode.TESTS_FAILED))


class PluginState:
    """One a pytest process. Everything heavy is made on first use."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.invalid_files: list[str] = []
        self.other_runners: list[str] = []
        self.records: list[CaseRecord] = []
        self._profiles: dict[str, RunnerProfile] | None = None
        self._profile: RunnerProfile | None = None
        self._session: Session | None = None

    @classmethod
    def of(cls, config: pytest.Config) -> PluginState:
        """The state of this pytest run."""
        state = config.stash.get(_KEY, None)
        if state is None:
            state = config.stash[_KEY] = cls(config)
        return state

    def runner_names(self) -> list[str]:
        """Names of the runner profiles, read off the folder without parsing a file."""
        return sorted(path.stem for path in options.folder(self.config, "quantgate_runners").glob("*.yaml"))

    def profile(self) -> RunnerProfile:
        """The runner of this run: named by ``--runner``, by ``-m NAME`` alone, or detected.

        Raises:
            pytest.UsageError: the name is of no profile, or the GPU is of none.
        """
        if self._profile is None:
            self._profile = self._choose()
        return self._profile

    def _choose(self) -> RunnerProfile:
        from harness.definitions.runner import load_runners, match_runner
        from harness.lane.devices import cpu_device, gpu_devices

        profiles = load_runners(options.folder(self.config, "quantgate_runners"))
        wanted = self.config.getoption("runner") or self.worker_input("runner")
        marker = str(self.config.getoption("markexpr") or "").strip()
        if not wanted and marker in profiles:
            wanted = marker
        if wanted:
            if wanted not in profiles:
                raise pytest.UsageError(f"--runner {wanted}: no such profile; there are {', '.join(sorted(profiles))}")
            return profiles[wanted]
        gpus = gpu_devices()
        try:
            return match_runner(gpus[0] if gpus else cpu_device(), profiles)
        except NoRunnerError as error:
            raise pytest.UsageError(str(error)) from error

    def device(self) -> Device:
        """A device of the chosen runner.

        Raises:
            NoRunnerError: none is in this machine.
        """
        from harness.session.devices import devices_for

        return devices_for(self.profile())[0]

    def worker_input(self, name: str) -> str | None:
        """What the xdist controller sent to this worker under ``name``."""
        sent: dict[str, Any] = getattr(self.config, "workerinput", {})
        value = sent.get(f"quantgate_{name}")
        return str(value) if value else None

    @property
    def is_worker(self) -> bool:
        """Whether this process is an xdist worker."""
        return hasattr(self.config, "workerinput")

    def run_id(self) -> str:
        """Name of this run, the same in the controller and its workers."""
        from harness.session.context import new_run_id

        if self.config.option.run_id is None:
            self.config.option.run_id = self.worker_input("run_id") or new_run_id()
        return str(self.config.option.run_id)

    @property
    def run_folder(self) -> Path:
        """Folder of this run."""
        return options.folder(self.config, "quantgate_runs") / self.run_id()

    def session(self) -> Session:
        """The conductor of this process."""
        if self._session is None:
            from harness.goldens.store import open_store
            from harness.session.conductor import Session
            from harness.session.context import SessionContext
            from harness.session.devices import device_environment
            from harness.session.perturbation import by_name

            device = self.device()
            perturbation = by_name(self.config.getoption("perturbation"))
            self._session = Session(
                SessionContext(
                    root=self.config.rootpath,
                    run=self.run_id(),
                    runs_dir=options.folder(self.config, "quantgate_runs"),
                    runner=self.profile(),
                    device=device,
                    store=open_store(options.folder(self.config, "quantgate_goldens")),
                    thresholds=options.folder(self.config, "quantgate_thresholds"),
                    device_env=device_environment(device),
                    perturbation=perturbation,
                )
            )
        return self._session

    def run(self, located: Located, node: str) -> tuple[CaseRecord, Path]:
        """Run one case and keep its record."""
        from harness.plugin.terminal import ProgressLine

        finished = self.session().run_case(located, node, ProgressLine(self.config, node))
        self.records.append(finished.record)
        if self.is_worker:
            self.config.workeroutput["quantgate_records"] = [record.to_json() for record in self.records]  # type: ignore[attr-defined]
        return finished.record, finished.folder

    def exit_code(self, pytest_code: int, session: pytest.Session) -> int | None:
        """Exit code by verdict class, where every failure of the run is a verdict; otherwise pytest's own stands."""
        if self.invalid_files and pytest_code == int(pytest.ExitCode.INTERRUPTED):
            return RULES[Outcome.INVALID_CASE].exit_code
        if pytest_code == int(pytest.ExitCode.NO_TESTS_COLLECTED) and self.other_runners:
            return RULES[Outcome.NO_RUNNER].exit_code
        red = [record for record in self.records if RULES[record.verdict.outcome].junit in ("failure", "error")]
        if pytest_code not in _PYTESTS_OWN or not red or session.testsfailed > len(red):
            return None
        return RULES[worst([record.verdict.outcome for record in red])].exit_code

    def close(self) -> None:
        """Stop the engines."""
        if self._session is not None:
            self._session.close()
            self._session = None
