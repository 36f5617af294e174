"""The service of one machine gives every job a home, a registration and processes of its own."""

from __future__ import annotations

import configparser
import getpass
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "runners/one-machine"
GH = f"""#!{sys.executable} -IS
import os, sys
from pathlib import Path
home = Path(os.environ["FAKE_GH"])
(home / "asked").write_text("\\n".join([os.environ.get("GH_TOKEN", ""), *sys.argv[1:]]))
if (home / "broken").exists():
    sys.exit("gh: Must have admin rights (HTTP 403)")
print("ZW5jb2RlZA==")
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of `prepare` on a machine where a job has been."""
    (tmp_path / "state/home/runner").mkdir(parents=True)
    (tmp_path / "state/home/.gitconfig").write_text("[core] hooksPath = /evil")
    (tmp_path / "state/home/runner/run.sh").write_text("changed by a job")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/kept").touch()
    (tmp_path / "state/home/link").symlink_to(tmp_path / "victim")
    (tmp_path / "package").mkdir()
    (tmp_path / "package/run.sh").write_text("as it was released")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/config").write_text("ORGANIZATION=acme\nGROUP=5\nLABELS='self-hosted linux x64 gpu-b200'\n")
    (tmp_path / "etc/token").write_text("the-token\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gh").write_text(GH)
    (tmp_path / "bin/gh").chmod(0o755)
    return {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "FAKE_GH": str(tmp_path),
        "QUANTGATE_RUNNER_ETC": str(tmp_path / "etc"),
        "QUANTGATE_RUNNER_STATE": str(tmp_path / "state"),
        "QUANTGATE_RUNNER_PACKAGE": str(tmp_path / "package"),
        "QUANTGATE_RUNNER_USER": getpass.getuser(),
    }


def _prepare(machine: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PLACE / "prepare"], env=machine, capture_output=True, text=True, check=False, timeout=60)


def test_nothing_of_the_last_job_meets_the_next(machine: dict[str, str], tmp_path: Path) -> None:
    done = _prepare(machine)
    assert done.returncode == 0, done.stderr
    home = tmp_path / "state/home"
    assert sorted(path.name for path in home.iterdir()) == ["jit", "runner"]
    assert (home / "runner/run.sh").read_text() == "as it was released"
    assert (tmp_path / "victim/kept").exists()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    given, *asked = (tmp_path / "asked").read_text().splitlines()
    assert given == "the-token"
    assert asked[:4] == ["api", "--method", "POST", "orgs/acme/actions/runners/generate-jitconfig"]
    assert {"labels[]=gpu-b200", "runner_group_id=5"} <= set(asked)
    for path in home.rglob("*"):
        assert not path.is_file() or "the-token" not in path.read_text()


@pytest.mark.parametrize("message", ["broken", "config", "token"])
def test_a_machine_that_cannot_register_takes_no_job(machine: dict[str, str], tmp_path: Path, message: str) -> None:
    if message == "broken":
        (tmp_path / "broken").touch()
    elif message == "config":
        (tmp_path / "etc/config").write_text("ORGANIZATION=acme\n")
    else:
        (tmp_path / "etc/token").unlink()
    done = _prepare(machine)
    assert done.returncode != 0
    assert not (tmp_path / "state/home/jit").exists() or not (tmp_path / "state/home/jit").read_text()


def test_the_unit_is_for_one_job_and_ends_all_of_it() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(PLACE / "quantgate-runner.service")
    service = unit["Service"]
    assert "--jitconfig" in service["ExecStart"]
    assert (service["Restart"], service["KillMode"]) == ("always", "control-group")
    assert service["User"] not in ("", "root")
    assert service["InaccessiblePaths"] == "/etc/quantgate-runner"
    assert {service[name] for name in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID")} == {"yes"}


def test_the_values_for_kubernetes_are_for_one_job() -> None:
    """A scale set starts a pod a job; nothing in the values may outlive one, or be written by one for the next."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/arc.md").read_text(), re.S)
    values = yaml.safe_load(block)
    spec = values["template"]["spec"]
    assert values["minRunners"] == 0
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    for volume in spec["volumes"]:
        assert "emptyDir" in volume or mounts[volume["name"]], volume
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
