"""The request of a case: the fields that move the output, as a flat map, so that requests are compared by field."""

from __future__ import annotations

from harness.definitions.case import Case
from harness.records.base import Json

REQUEST_FIELDS = ("backend", "command", "sampling", "scheduler", "precision", "execution")
"""Fields of a case that move the output. Names, deadlines, limits and expectations move nothing."""


NOT_PIXELS = ("sampling.fps", "execution.threads")
"""Fields inside `REQUEST_FIELDS` that move no pixel: the preview's speed, and the thread count, whose change keeps
the output bit-exact on one machine. The thread count is shown with the subject."""


def request_of(case: Case) -> dict[str, Json]:
    """Return the request of a case as a flat map of all fields that move the output."""
    request: dict[str, Json] = {}
    data = case.model_dump(mode="json")
    for field in ("image", "last_image"):
        image = data["sampling"].pop(field)
        # a picture counts by its bytes, not its path; without a picture the request equals that of older versions
        if image is not None:
            data["sampling"][field] = {"sha256": image["sha256"]}
    for name in REQUEST_FIELDS:
        request.update(flat(name, data[name]))
    if case.server is not None:  # the server's address moves nothing
        server = case.server
        request.update({"server.dialect": server.dialect, "server.command": list[Json](server.command)})
    request.update(flat("runtime_args", data["runtime_args"]) if case.runtime_args else {})
    return {name: value for name, value in request.items() if name not in NOT_PIXELS}


def flat(name: str, value: Json) -> dict[str, Json]:
    """Flatten nested maps, so that a difference has a name: ``flat("a", {"b": 1})`` is ``{"a.b": 1}``."""
    if not isinstance(value, dict):
        return {name: value}
    rows: dict[str, Json] = {}
    for key, inner in value.items():
        rows.update(flat(f"{name}.{key}", inner))
    return rows
