"""Changes of live objects that are taken back when a call ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from benchmarks.unseen.engine import UnseenBackend

_ABSENT = object()


class Patch:
    """What an injection gets: the running pipeline, and ways to change it until the call ends."""

    def __init__(self, backend: UnseenBackend, stack: ExitStack) -> None:
        self.backend, self._stack = backend, stack

    @property
    def pipe(self) -> Any:
        """The loaded ``WanPipeline``."""
        return self.backend.pipe

    @property
    def experts(self) -> list[Any]:
        """Both transformers, the high-noise expert first."""
        return list(self.backend.experts.values())

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of an object or module."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        self._stack.callback(lambda: delattr(owner, name) if before is _ABSENT else setattr(owner, name, before))

    def override(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        """Replace a method by way of the class: ``method(original, *arguments, **options)``, original bound.

        Hooks, and wrappers that others put on the instance, still run around it. The class keeps its name.
        """
        plain = type(owner)

        def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
            return method(getattr(plain, name).__get__(self), *arguments, **options)

        made = type(plain.__name__, (plain,), {name: wrapped, "__module__": plain.__module__})
        owner.__class__ = made
        self._stack.callback(lambda: setattr(owner, "__class__", plain))

    def values(self, tensor: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Give a parameter or buffer other values, in place."""
        before = tensor.detach().clone()
        tensor.data.copy_(change(before))
        self._stack.callback(lambda: tensor.data.copy_(before))

    def later(self, undo: Callable[[], None]) -> None:
        """Call ``undo`` when the call ends."""
        self._stack.callback(undo)

    def enter(self, manager: AbstractContextManager[Any]) -> None:
        """Keep a context manager open until the call ends."""
        self._stack.enter_context(manager)

    def schedule(self, change: Callable[[Any], Any]) -> None:
        """Change the scheduler of every generation."""
        self.backend.reschedule.append(change)
        self._stack.callback(lambda: self.backend.reschedule.remove(change))

    def configure(self, **settings: Any) -> None:
        """Give the scheduler other settings."""
        self.schedule(lambda made: type(made).from_config(made.config, **settings))

    def stepping(self, name: str, method: Callable[..., Any]) -> None:
        """Replace a method of the scheduler: ``method(scheduler, original, *arguments, **options)``."""

        def change(made: Any) -> Any:
            plain = type(made)

            def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
                return method(self, getattr(plain, name).__get__(self), *arguments, **options)

            made.__class__ = type(plain.__name__, (plain,), {name: wrapped, "__module__": plain.__module__})
            return made

        self.schedule(change)

    def sampling(self, **values: Any) -> None:
        """Have the runtime understand other sampling settings than the case states."""

        def change(case: Any) -> Any:
            return case.model_copy(update={"sampling": case.sampling.model_copy(update=values)})

        self.backend.ask.append(change)
        self._stack.callback(lambda: self.backend.ask.remove(change))
