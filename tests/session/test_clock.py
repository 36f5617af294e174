"""The newest time that a run knows of."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.session.clock import newest_time

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("stated", "newest"),
    [
        ((), NOW),
        (("2026-05-01T00:00:00+00:00", "no time", ""), NOW),
        (("2026-07-01T00:00:00+00:00", "2026-06-02"), datetime(2026, 7, 1, tzinfo=UTC)),
        (("2026-06-02T00:00:00",), datetime(2026, 6, 2, tzinfo=UTC)),
    ],
)
def test_the_latest_time_counts(tmp_path: Path, stated: tuple[str, ...], newest: datetime) -> None:
    assert newest_time(NOW, tmp_path, stated) == newest


def test_the_commit_that_is_checked_out_is_no_older_than_the_run(tmp_path: Path) -> None:
    env = {**os.environ, "GIT_COMMITTER_DATE": "2026-09-01T00:00:00+00:00"}
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for arguments in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, env=env)
    assert newest_time(NOW, tmp_path) == datetime(2026, 9, 1, tzinfo=UTC)
