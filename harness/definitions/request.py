"""The request of a case: the fields that move the output, flat, so that two requests can be compared by name."""

from __future__ import annotations

from harness.definitions.case import Case
from harness.records.base import Json

REQUEST_FIELDS = ("backend", "command", "sampling", "scheduler", "precision", "execution")
"""What the case states that moves the output. Names, deadlines, limits and expectations move nothing."""


NOT_PIXELS = ("sampling.fps", "execution.threads")
"""Fields inside of those that move no pixel: the preview's speed, and the thread count, under which output is bit-exact
on one machine. The thread count is shown with the subject."""


def request_of(case: Case) -> dict[str, Json]:
    """The request class of a case: everything it states that moves the output, flat."""
    request: dict[str, Json] = {}
    data = case.model_dump(mode="json")
    for field in ("image", "last_image"):
        image = data["sampling"].pop(field)
        # a picture counts by its bytes, wherever they lie; without one the request is what it was before pictures
        if image is not None:
            data["sampling"][field] = {"sha256": image["sha256"]}
    for name in REQUEST_FIELDS:
        request.update(flat(name, data[name]))
    if case.server is not None:  # where it listens moves nothing
        said = case.server
        request.update({"server.dialect": said.dialect, "server.command": list[Json](said.command)})
    request.update(flat("runtime_args", data["runtime_args"]) if case.runtime_args else {})
    return {name: value for name, value in request.items() if name not in NOT_PIXELS}


def flat(name: str, value: Json) -> dict[str, Json]:
    """Nested maps as ``a.b: value``, so that a difference has a name."""
    if not isinstance(value, dict):
        return {name: value}
    rows: dict[str, Json] = {}
    for key, inner in value.items():
        rows.update(flat(f"{name}.{key}", inner))
    return rows
