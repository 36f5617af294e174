"""Engines by key: reused while they live, replaced when they died, few at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from harness.definitions.case import Case
from harness.pipeline.engine_key import engine_key
from harness.pipeline.owner import EngineOwner, OnProgress
from harness.pipeline.stamps import stamps_of

Resolve = Callable[[Case], Mapping[str, Path]]


class EnginePool:
    """Hands out started engines.

    Args:
        workdir: folder for the engines' logs.
        device_env: variables that select the device.
        resolve: gives the folder of every checkpoint of a case, by role.
        device: ``cpu``, ``cuda`` or ``auto``.
        runner: name that goes into fingerprints.
        keep: how many engines may stand at once. One by default: a device that is full of one 14 B model has no room
            for another; the engine that was used least recently makes room.
        allow_python_backend: see ``EngineOwner``.
        root: see ``EngineOwner``.
    """

    def __init__(
        self,
        workdir: Path,
        device_env: Mapping[str, str],
        resolve: Resolve,
        *,
        device: str = "auto",
        runner: str = "",
        keep: int = 1,
        allow_python_backend: bool = False,
        root: Path | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError("keep is at least 1")
        self._workdir, self._device_env, self._resolve = workdir, device_env, resolve
        self._device, self._runner, self._keep = device, runner, keep
        self._allow_python, self._root = allow_python_backend, root
        self._engines: dict[str, EngineOwner] = {}
        self.loads = 0
        """How many engines were started: how often a model was loaded."""

    def get(self, case: Case, on_progress: OnProgress | None = None) -> EngineOwner:
        """The started engine of ``case``: the one that stands, or a fresh one.

        One whose files are not on disk any more as it loaded them is ended: what is there now would be judged by it.

        Raises:
            QuantgateError: as ``EngineOwner.start``; nothing is left running then.
        """
        key = engine_key(case)
        engine = self._engines.pop(key, None)
        paths = {role: path.resolve() for role, path in self._resolve(case).items()}
        if engine is not None and not (engine.alive and engine.stamps == stamps_of(paths)):
            engine.close()
            engine = None
        if engine is None:
            while len(self._engines) >= self._keep:
                self._engines.pop(next(iter(self._engines))).close()
            engine = EngineOwner(
                case,
                self._workdir,
                self._device_env,
                paths,
                device=self._device,
                runner=self._runner,
                allow_python_backend=self._allow_python,
                root=self._root,
            )
            self.loads += 1
            engine.start(on_progress)
        self._engines[key] = engine
        return engine

    def discard(self, case: Case) -> None:
        """Close the engine of ``case``, if one stands: the next ``get`` starts a fresh one."""
        engine = self._engines.pop(engine_key(case), None)
        if engine is not None:
            engine.close()

    def close_all(self) -> None:
        """End every engine."""
        while self._engines:
            self._engines.popitem()[1].close()

    def __enter__(self) -> EnginePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_all()
