"""State that the items of one pytest run share: runner, device, session context, engine pool, records."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.definitions.case import Case, Located
from harness.errors import NoRunnerError, QuantgateError
from harness.outcomes import RULES, Outcome
from harness.plugin import options
from harness.plugin.unwritable import warn_if_unwritable
from harness.records.case_record import CaseRecord
from harness.records.identity import Device
from harness.records.run_folder import HISTORY_FILE, RECORD_FILE, RunFolder
from harness.records.verdict import worst

if TYPE_CHECKING:
    from harness.definitions.runner import RunnerProfile
    from harness.lane.durations import Duration, History
    from harness.machine.leases import Lease
    from harness.plugin.sharding import Shard
    from harness.project import CaseFiles
    from harness.session.conductor import Session

_KEY: pytest.StashKey[PluginState] = pytest.StashKey()
_PYTESTS_OWN = (int(pytest.ExitCode.OK), int(pytest.ExitCode.TESTS_FAILED), int(pytest.ExitCode.NO_TESTS_COLLECTED))


class PluginState:
    """State of one pytest process. Expensive members are created on first use."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.invalid_files: list[str] = []
        self.invalid_texts: dict[str, str] = {}
        """Error text by path of an invalid case file."""
        self.other_runners: list[str] = []
        """Runners whose cases were deselected, because this run is on another runner."""
        self.records: list[CaseRecord] = []
        self.expected: dict[str, Located] = {}
        """By pytest id: every case that this run has to judge. Filled where the run ends, not in workers."""
        self.began = False
        """Whether pytest, or the controller of xdist, began to run the collected items."""
        self.collected: list[pytest.Item] = []
        """Every case that pytest collected, before any deselection."""
        self.collected_files: set[Path] = set()
        """Every case file whose cases pytest collected."""
        self.skipped: dict[str, str] = {}
        """By pytest id: the reason of pytest's skip, as far as it is known."""
        self.dropped: set[str] = set()
        """Pytest ids of selected cases that a plugin or a ``conftest.py`` removed from the run."""
        self.failed: set[str] = set()
        """Pytest ids that pytest reported as failed."""
        self.unjudged: set[str] = set()
        """Pytest ids of cases without a verdict when the run ended: pytest counts none of them as failed."""
        self.crashed: dict[str, Any] = {}
        """By pytest id: the xdist worker that died while it ran the case."""
        self.not_cleared: set[str] = set()
        """Pytest ids of cases whose folder still holds files of an earlier run: none of them counts."""
        self.unwritten: list[str] = []
        """One line per file that could not be written; see ``unwritable``."""
        self._profiles: dict[str, RunnerProfile] | None = None
        self._profile: RunnerProfile | None = None
        self._session: Session | None = None
        self._lease: Lease | None = None
        self._shard: tuple[Shard | None] | None = None
        self._case_files: CaseFiles | None = None
        self._skipping: bool | None = None
        self._configured: bool | None = None

    @classmethod
    def of(cls, config: pytest.Config) -> PluginState:
        """Return the state of this pytest run; it is created at the first call."""
        state = config.stash.get(_KEY, None)
        if state is None:
            state = config.stash[_KEY] = cls(config)
        return state

    @property
    def is_configured(self) -> bool:
        """Whether this project has cases of quantgate; determined once per run."""
        if self._configured is None:
            self._configured = options.is_configured(self.config)
        return self._configured

    @property
    def case_files(self) -> CaseFiles:
        """The case files of the project, listed once per run."""
        if self._case_files is None:
            from harness.project import case_files_below

            self._case_files = case_files_below(options.project(self.config).cases)
        return self._case_files

    def skips_missing_runner(self) -> bool:
        """Return whether cases are skipped: a person passed ``--allow-missing-runner`` and the device is absent."""
        if self._skipping is None:
            from harness.plugin.options import skipping_is_asked

            self._skipping = False
            if skipping_is_asked(self.config):
                try:
                    self.device()
                except NoRunnerError:
                    self._skipping = True
        return self._skipping

    def runner_names(self) -> list[str]:
        """List the names of the runner profiles, read from the folder without parsing a file."""
        if not self.is_configured:
            return []
        return sorted(path.stem for path in options.project(self.config).runners.glob("*.yaml"))

    def profile(self) -> RunnerProfile:
        """Return the runner of this run: named by ``--runner`` or the plan, required by ``-m``, or detected.

        Raises:
            pytest.UsageError: no profile has the name or the GPU, or ``-m`` does not determine the runner.
        """
        if self._profile is None:
            self._profile = self._choose()
        return self._profile

    def _choose(self) -> RunnerProfile:
        from harness.definitions.runner import load_runners, match_runner
        from harness.machine.devices import cpu_device, gpu_devices

        profiles = load_runners(options.project(self.config).runners)
        shard = self.shard()
        named = self.config.getoption("runner") or self.worker_input("runner")
        runner = named or (shard.plan.runner if shard else "") or self.marked()
        if runner:
            if runner not in profiles:
                raise pytest.UsageError(f"--runner {runner}: no such profile; there are {', '.join(sorted(profiles))}")
            return profiles[runner]
        gpus = gpu_devices()
        try:
            return match_runner(gpus[0] if gpus else cpu_device(), profiles)
        except NoRunnerError as error:
            raise pytest.UsageError(str(error)) from error

    def marked(self) -> str:
        """Return the runner that ``-m`` requires; empty if it names none.

        Raises:
            pytest.UsageError: the expression names runners, but does not require exactly one of them.
        """
        from harness.plugin.options import marked_runner

        return marked_runner(str(self.config.getoption("markexpr") or ""), self.runner_names())

    def device(self) -> Device:
        """Return a device of the chosen runner.

        Raises:
            NoRunnerError: this machine has none.
        """
        from harness.session.context import devices_for

        return devices_for(self.profile())[0]

    def shard(self) -> Shard | None:
        """Return the part of a plan that this run has to execute; ``None`` without ``--plan``.

        Raises:
            pytest.UsageError: ``--plan`` and ``--shard`` cannot be used as given.
        """
        if self._shard is None:
            from harness.plugin.sharding import read_shard

            self._shard = (read_shard(self.config),)
        return self._shard[0]

    def plan_id(self) -> str:
        """Return the id of the plan that this run executes; empty without a plan."""
        shard = self.shard()
        return shard.plan.id if shard else ""

    def expected_times(self, cases: Sequence[Case]) -> dict[str, Duration]:
        """Return the expected seconds by case id, measured or estimated."""
        from harness.lane.durations import durations

        profile = self.profile()
        return durations(list(cases), self.history(), profile.name, profile.device_kind)

    def history(self) -> History:
        """Return the times of earlier runs. A worker uses the controller's, so that all order the cases alike."""
        from harness.lane.durations import History

        sent = self.worker_input("history")
        return self.read_history() if sent is None else History.model_validate_json(sent)

    @property
    def history_file(self) -> Path:
        """File with the times of earlier runs."""
        return options.runs_folder(self.config) / HISTORY_FILE

    def read_history(self) -> History:
        """Read the history file. A broken file counts as empty (it only orders cases); the next write replaces it."""
        from harness.lane.durations import History, read_history

        try:
            return read_history([self.history_file])
        except QuantgateError:
            return History()

    def worker_input(self, name: str) -> str | None:
        """Return the value that the xdist controller sent to this worker as ``name``; ``None`` without one."""
        sent: dict[str, Any] = getattr(self.config, "workerinput", {})
        value = sent.get(f"quantgate_{name}")
        return str(value) if value else None

    @property
    def is_worker(self) -> bool:
        """Whether this process is an xdist worker."""
        return hasattr(self.config, "workerinput")

    def run_id(self) -> str:
        """Return the name of this run, the same in the controller and its workers."""
        from harness.session.context import new_run_id

        if self.config.option.run_id is None:
            self.config.option.run_id = self.worker_input("run_id") or new_run_id()
        return str(self.config.option.run_id)

    @property
    def run_folder(self) -> Path:
        """Folder of this run."""
        return options.runs_folder(self.config) / self.run_id()

    def lease(self, avoid: tuple[str, ...] = ()) -> Lease:
        """Return the lease of the device that belongs to this process until ``close``; acquire it if needed.

        Args:
            avoid: UUIDs of GPUs that are tried last.

        Raises:
            NoRunnerError: this machine has no device of the runner.
            InfraError: every device stayed in use.
        """
        if self._lease is None:
            from harness.machine.leases import acquire
            from harness.session.context import devices_for

            reporter = self.config.pluginmanager.get_plugin("terminalreporter")
            self._lease = acquire(
                devices_for(self.profile()),
                float(self.config.getoption("gpu_wait")),
                avoid=avoid,
                run=self.run_id(),
                on_wait=reporter.write_line if reporter else None,
            )
        return self._lease

    def session(self) -> Session:
        """Return the session that runs the cases of this process; it is created on first use."""
        if self._session is None:
            from harness.goldens.store import open_store
            from harness.session.conductor import Session
            from harness.session.context import SessionContext
            from harness.session.perturbation import by_name

            lease = self.lease()
            self._require_fit(lease.device)
            perturbation = by_name(self.config.getoption("perturbation"))
            self._session = Session(
                SessionContext(
                    root=self.config.rootpath,
                    run=self.run_id(),
                    runs_dir=options.runs_folder(self.config),
                    runner=self.profile(),
                    device=lease.device,
                    store=open_store(options.project(self.config).goldens),
                    thresholds=options.project(self.config).thresholds,
                    device_env=lease.env,
                    plan=self.plan_id(),
                    perturbation=perturbation,
                    attribution_seconds=self.config.getoption("attribution"),
                )
            )
        return self._session

    def _require_fit(self, device: Device) -> None:
        """Let the doctor check the leased GPU before a model is loaded on it. A CPU has no such checks.

        Raises:
            InfraError: the GPU is not fit; the case is tried once more, on another GPU if there is one.
        """
        from harness.machine import doctor

        if device.kind == "cuda":
            doctor.require_fit(doctor.examine(self.profile(), self.config.rootpath, uuid=device.uuid))

    def run(self, located: Located, node: str) -> tuple[CaseRecord, Path]:
        """Run one case and record it; run it once more on another engine if its verdict class allows that."""
        from harness.session.attempts import attempt_number, next_attempt, put_aside

        attempt = attempt_number(self.case_folder(located.case.id))
        while True:
            record, folder = self._attempt(located, node, attempt)
            retry = next_attempt(record)
            if retry is None:
                break
            try:
                put_aside(folder, attempt)
            except OSError:
                break  # the first record is on no disk, and a second would not be either
            avoid = (self._lease.device.uuid or "",) if self._lease else ()
            self.close()
            # The next attempt needs a fresh engine, and on a GPU runner another GPU if there is one.
            with suppress(
                QuantgateError, OSError
            ):  # a device that stays in use is found out again, and recorded, below
                self.lease(avoid)
            attempt = retry.attempt
        self._keep(record)
        return record, folder

    def _keep(self, record: CaseRecord) -> None:
        """Add ``record`` to those of the run; a worker sends all of its records when it ends."""
        self.records.append(record)
        if self.is_worker:
            self.config.workeroutput["quantgate_records"] = [record.to_json() for record in self.records]  # type: ignore[attr-defined]

    def not_judged(self, located: Located, node: str, skip: str) -> CaseRecord:
        """Record that pytest skipped a selected case before it was judged, for the reason ``skip``."""
        from harness.session.attempts import NeverJudgedError

        error = NeverJudgedError(
            f"it was selected, and pytest skipped it: {skip}",
            remedy=f"pytest {node} --runner {self.profile().name}",
        )
        record = self.lost(located, node, 1, error)
        self._keep(record)
        return record

    def case_folder(self, case: str) -> Path:
        """Return the folder of one case in this run."""
        return RunFolder(self.run_folder).case(case)

    def _attempt(self, located: Located, node: str, attempt: int) -> tuple[CaseRecord, Path]:
        from harness.plugin.progress import ProgressLine
        from harness.session.stages import to_quantgate_error

        try:
            session = self.session()
            self.lease().require_held()
        except Exception as error:
            record = self.lost(located, node, attempt, to_quantgate_error(error, located.case))
            return record, self.case_folder(located.case.id)
        finished = session.run_case(located, node, ProgressLine(self.config, node), attempt)
        return finished.record, finished.folder

    def lost(self, located: Located, node: str, attempt: int, error: str | QuantgateError) -> CaseRecord:
        """Make the record of a case that no session could judge, and write it if the disk allows it."""
        from harness.session.attempts import lost_record

        runner = self.profile().name
        record = lost_record(
            located,
            node,
            run=self.run_id(),
            plan=self.plan_id(),
            runner=runner,
            attempt=attempt,
            error=error,
            next_command=f"quantgate doctor --runner {runner}",
        )
        self.write(record, self.case_folder(located.case.id) / RECORD_FILE)
        return record

    def write(self, record: CaseRecord, path: Path) -> None:
        """Write ``record``; a failed write is queued for the summary, since the verdict counts either way."""
        with warn_if_unwritable(self, f"the record of {record.case}"):
            record.write(path)

    def exit_code(self, pytest_code: int, session: pytest.Session) -> int | None:
        """Return the exit code by verdict class if every failure of the run is a verdict; else ``None`` (pytest's)."""
        if self.invalid_files and pytest_code == int(pytest.ExitCode.INTERRUPTED):
            return RULES[Outcome.INVALID_CASE].exit_code
        if pytest_code == int(pytest.ExitCode.NO_TESTS_COLLECTED) and self.other_runners and not self.records:
            return RULES[Outcome.NO_RUNNER].exit_code
        red = [record for record in self.records if RULES[record.verdict.outcome].junit in ("failure", "error")]
        # pytest does not count the cases without a verdict as failed.
        judged = [record for record in red if record.node not in self.unjudged]
        if pytest_code not in _PYTESTS_OWN or not red or session.testsfailed > len(judged):
            return None
        return RULES[worst([record.verdict.outcome for record in red])].exit_code

    def worst_code(self) -> int:
        """Return the exit code of the worst red verdict of the run; 0 if none is red."""
        red = [record.verdict.outcome for record in self.records]
        red = [outcome for outcome in red if RULES[outcome].junit in ("failure", "error")]
        return RULES[worst(red)].exit_code if red else 0

    def close(self) -> None:
        """Stop the engines and release the device."""
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._lease is not None:
            self._lease.release()
            self._lease = None
