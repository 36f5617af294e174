"""huggingface_hub's errors, as ours: what the dataset says is about goldens, what the network says is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from harness.errors import GoldenError, InfraError

ENTRY_MISSING = RemoteEntryNotFoundError
"""The hub answered that the commit has no such file (as opposed to: nobody could be asked)."""

_CONFLICT = (409, 412)
_TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[0]
"""HTTPError of the HTTP library in use: httpx or httpx2, by version of huggingface_hub."""


@contextmanager
def hub_errors(origin: str, doing: str) -> Iterator[None]:
    """Turn what huggingface_hub raises while ``doing`` into a :class:`GoldenError` or an :class:`InfraError`."""
    try:
        yield
    except RemoteEntryNotFoundError:
        raise
    except RepositoryNotFoundError as error:
        remedy = "check goldens/store.json and your token: a private dataset looks missing without one"
        raise GoldenError(f"cannot {doing}: no such dataset", where=origin, remedy=remedy) from error
    except RevisionNotFoundError as error:
        remedy = "check the pin in goldens/store.json"
        raise GoldenError(f"cannot {doing}: no such revision", where=origin, remedy=remedy) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        remedy = "go online once (unset HF_HUB_OFFLINE), or `quantgate goldens pull` where there is a network"
        reason = f" ({_first_line(error.__cause__)})" if error.__cause__ is not None else ""
        what = f"cannot {doing}: not in the cache, and the hub could not be asked{reason}"
        raise InfraError(what, where=origin, remedy=remedy, kind="download") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in _CONFLICT:
            what = f"cannot {doing}: somebody else committed to the dataset at the same moment"
            raise GoldenError(what, where=origin, remedy="type the same command again") from error
        raise InfraError(f"cannot {doing}: {_first_line(error)}", where=origin, kind="download") from error
    except (_TRANSPORT, OSError, RuntimeError, ValueError) as error:
        # a failed LFS upload is a RuntimeError around the reason, a refused one a ValueError
        remedy = "type the same command again: what arrived is kept"
        reason = _first_line(error.__cause__ or error)
        raise InfraError(f"cannot {doing}: {reason}", where=origin, remedy=remedy, kind="download") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
