"""What the items of one pytest run share: runner, device, session context, engine pool, records."""

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
from harness.plugin.unwritable import or_said
from harness.records.case_record import CaseRecord
from harness.records.identity import Device
from harness.records.run_folder import HISTORY_FILE, RECORD_FILE, RunFolder
from harness.records.verdict import worst

if TYPE_CHECKING:
    from harness.definitions.runner import RunnerProfile
    from harness.lane.durations import History
    from harness.machine.leases import Lease
    from harness.plugin.sharding import Shard
    from harness.project import CaseFiles
    from harness.session.conductor import Session

_KEY: pytest.StashKey[PluginState] = pytest.StashKey()
_PYTESTS_OWN = (int(pytest.ExitCode.OK), int(pytest.ExitCode.TESTS_FAILED), int(pytest.ExitCode.NO_TESTS_COLLECTED))


class PluginState:
    """One a pytest process. Everything heavy is made on first use."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.invalid_files: list[str] = []
        self.invalid_texts: dict[str, str] = {}
        """By path of a case file that cannot be used: what is wrong with it."""
        self.other_runners: list[str] = []
        self.records: list[CaseRecord] = []
        self.expected: dict[str, Located] = {}
        """By pytest id: every case that this run was to judge. In the process that ends the run, not in its workers."""
        self.collected: list[pytest.Item] = []
        """Every case that pytest collected, before anybody deselected."""
        self.collected_files: set[Path] = set()
        """Every case file of which pytest asked for the cases."""
        self.skipped: dict[str, str] = {}
        """By pytest id: why pytest skipped it, as far as it says."""
        self.dropped: set[str] = set()
        """Pytest ids of cases that were selected and that a plugin or a ``conftest.py`` took out of the run."""
        self.failed: set[str] = set()
        self.unjudged: set[str] = set()
        """Pytest ids of cases that the run ended without a verdict of: pytest counts none of them as failed."""
        self.crashed: dict[str, Any] = {}
        """The xdist worker that died while it ran this pytest id."""
        self.not_cleared: set[str] = set()
        """Pytest ids of cases whose folder still holds what an earlier run left: nothing in it counts."""
        self.unwritten: list[str] = []
        """What could not be written, a line each; see ``writing``."""
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
        """The state of this pytest run."""
        state = config.stash.get(_KEY, None)
        if state is None:
            state = config.stash[_KEY] = cls(config)
        return state

    @property
    def is_configured(self) -> bool:
        """Whether this project has cases of quantgate; asked once per run."""
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
        """Whether a person asked for cases to be skipped without their device, and the device is absent."""
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
        """List the names of the runner profiles, read off the folder without parsing a file."""
        if not self.is_configured:
            return []
        return sorted(path.stem for path in options.project(self.config).runners.glob("*.yaml"))

    def profile(self) -> RunnerProfile:
        """The runner of this run: named by ``--runner``, required by ``-m``, or detected.

        Raises:
            pytest.UsageError: the name or the GPU is of no profile, or ``-m`` leaves open which runner is meant.
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
        wanted = named or (shard.plan.runner if shard else "") or self.marked()
        if wanted:
            if wanted not in profiles:
                raise pytest.UsageError(f"--runner {wanted}: no such profile; there are {', '.join(sorted(profiles))}")
            return profiles[wanted]
        gpus = gpu_devices()
        try:
            return match_runner(gpus[0] if gpus else cpu_device(), profiles)
        except NoRunnerError as error:
            raise pytest.UsageError(str(error)) from error

    def marked(self) -> str:
        """The runner that ``-m`` requires; empty where it names none.

        Raises:
            pytest.UsageError: it names runners and does not say which one.
        """
        from harness.plugin.options import marked_runner

        return marked_runner(str(self.config.getoption("markexpr") or ""), self.runner_names())

    def device(self) -> Device:
        """A device of the chosen runner.

        Raises:
            NoRunnerError: none is in this machine.
        """
        from harness.session.context import devices_for

        return devices_for(self.profile())[0]

    def shard(self) -> Shard | None:
        """The part of a plan that this run was asked for.

        Raises:
            pytest.UsageError: ``--plan`` and ``--shard`` cannot be used as given.
        """
        if self._shard is None:
            from harness.plugin.sharding import read_shard

            self._shard = (read_shard(self.config),)
        return self._shard[0]

    def plan_id(self) -> str:
        """Id of the plan that asked for this run; empty where none did."""
        shard = self.shard()
        return shard.plan.id if shard else ""

    def expected_seconds(self, cases: Sequence[Case]) -> dict[str, float]:
        """Expected seconds by case id, measured or estimated."""
        from harness.lane.durations import durations

        profile = self.profile()
        expected = durations(list(cases), self.history(), profile.name, profile.device_kind)
        return {case: duration.seconds for case, duration in expected.items()}

    def history(self) -> History:
        """Times of earlier runs; a worker gets the controller's, so that all order alike."""
        from harness.lane.durations import History

        sent = self.worker_input("history")
        return self.read_history() if sent is None else History.model_validate_json(sent)

    @property
    def history_file(self) -> Path:
        """Where the times of earlier runs are kept."""
        return options.runs_folder(self.config) / HISTORY_FILE

    def read_history(self) -> History:
        """The history file; a broken one is empty, since it only orders what runs anyway, and is then written anew."""
        from harness.lane.durations import History, read_history

        try:
            return read_history([self.history_file])
        except QuantgateError:
            return History()

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
        return options.runs_folder(self.config) / self.run_id()

    def lease(self, avoid: tuple[str, ...] = ()) -> Lease:
        """The device that is this process's own until ``close``.

        Raises:
            NoRunnerError: no device of the runner is in this machine.
            InfraError: every one stayed in use.
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
        """The conductor of this process."""
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
        """The doctor's look at the leased GPU, before a model is loaded on it. A CPU has no state to look at.

        Raises:
            InfraError: it is not fit; the case is tried once more on another GPU, where there is one.
        """
        from harness.machine import doctor

        if device.kind == "cuda":
            doctor.require_fit(doctor.examine(self.profile(), self.config.rootpath, uuid=device.uuid))

    def run(self, located: Located, node: str) -> tuple[CaseRecord, Path]:
        """Run one case, once more on another engine where its verdict class allows it, and keep its record."""
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
                break  # its record is on no disk: nor would be that of another attempt
            avoid = (self._lease.device.uuid or "",) if self._lease else ()
            self.close()
            with suppress(
                QuantgateError, OSError
            ):  # a device that stays in use is found out again, and recorded, below
                self.lease(avoid)
            attempt = retry.attempt
        self._keep(record)
        return record, folder

    def _keep(self, record: CaseRecord) -> None:
        """Add ``record`` to those of the run; a worker sends all of its own when it ends."""
        self.records.append(record)
        if self.is_worker:
            self.config.workeroutput["quantgate_records"] = [one.to_json() for one in self.records]  # type: ignore[attr-defined]

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
        """Folder of one case in this run."""
        return RunFolder(self.run_folder).case(case)

    def _attempt(self, located: Located, node: str, attempt: int) -> tuple[CaseRecord, Path]:
        from harness.plugin.progress import ProgressLine
        from harness.session.stages import as_ours

        try:
            session = self.session()
            self.lease().require_held()
        except Exception as error:
            record = self.lost(located, node, attempt, as_ours(error, located.case))
            return record, self.case_folder(located.case.id)
        finished = session.run_case(located, node, ProgressLine(self.config, node), attempt)
        return finished.record, finished.folder

    def lost(self, located: Located, node: str, attempt: int, error: str | QuantgateError) -> CaseRecord:
        """Make the record of a case that no session could judge, and write it where that can be."""
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
        """Write ``record`` where the disk takes it; the verdict counts either way."""
        with or_said(self, f"the record of {record.case}"):
            record.write(path)

    def exit_code(self, pytest_code: int, session: pytest.Session) -> int | None:
        """Exit code by verdict class, where every failure of the run is a verdict; otherwise pytest's own stands."""
        if self.invalid_files and pytest_code == int(pytest.ExitCode.INTERRUPTED):
            return RULES[Outcome.INVALID_CASE].exit_code
        if pytest_code == int(pytest.ExitCode.NO_TESTS_COLLECTED) and self.other_runners and not self.records:
            return RULES[Outcome.NO_RUNNER].exit_code
        red = [record for record in self.records if RULES[record.verdict.outcome].junit in ("failure", "error")]
        told = [record for record in red if record.node not in self.unjudged]
        if pytest_code not in _PYTESTS_OWN or not red or session.testsfailed > len(told):
            return None
        return RULES[worst([record.verdict.outcome for record in red])].exit_code

    def close(self) -> None:
        """Stop the engines and give the device back."""
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._lease is not None:
            self._lease.release()
            self._lease = None
