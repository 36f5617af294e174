"""A secret in any field of a record reaches no surface."""

from __future__ import annotations

import string
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.report import Format, report
from harness.report.redact import HIDDEN, known_secrets, redact_record, redact_text

ALPHABET = string.ascii_letters + string.digits
BODY = "".join(ALPHABET[(i * 7) % len(ALPHABET)] for i in range(30))
SHAPES = [
    f"hf_{BODY}", f"ghp_{BODY}", f"github_pat_{BODY}", f"glpat-{BODY}", f"xoxb-{BODY}", f"sk-{BODY}",
    "AKIA" + "ABCD1234EFGH5678", f"eyJ{BODY}.eyJ{BODY}.{BODY}",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----",
]  # fmt: skip


@pytest.mark.parametrize("secret", SHAPES)
def test_tokens_of_known_shape(secret: str) -> None:
    assert redact_text(f"before {secret} after") == f"before {HIDDEN} after"


@pytest.mark.parametrize(
    "line",
    ["HF_TOKEN=s3cretvalue", "export AWS_SECRET_ACCESS_KEY=s3cretvalue", '"password": "s3cretvalue"',
     "api_key: s3cretvalue", "https://user:s3cretvalue@host/x", "Authorization: Bearer s3cretvalue"],
)  # fmt: skip
def test_values_after_secret_names(line: str) -> None:
    assert "s3cretvalue" not in redact_text(line)


@pytest.mark.parametrize(
    "text", ["512 tokens", "tokenizer: umt5", "max_tokens=77", "the secret garden, a password film"]
)
def test_words_about_secrets_are_left_alone(text: str) -> None:
    assert redact_text(text) == text


def test_values_of_secret_variables_are_known() -> None:
    found = known_secrets(
        {"HF_TOKEN": "abcdefgh12", "MY_PASSWORD": "short", "PATH": "/usr/bin:/bin", "A_SECRET": "abcdefgh"}
    )
    assert found == ("abcdefgh12", "abcdefgh")


@given(st.text(alphabet=ALPHABET, min_size=12, max_size=40))
def test_a_known_value_leaves_no_field(value: str) -> None:
    assert value not in redact_text(f"x{value}y {value}", (value,)).replace(HIDDEN, "")


def test_no_surface_shows_a_secret(make: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, shaped = "0penSesame-of-this-machine", f"hf_{BODY}"
    monkeypatch.setenv("DEPLOY_TOKEN", ours)
    golden = make.drawn_clip(3)
    found = make.measured_record(
        "leaky", golden, make.broken_clip(golden, 1),
        request={"env": {"HF_TOKEN": "plain-value-here", "MODE": "x"}, "sampling": {"prompt": f"a {ours}"}},
        log_tail=(f"login {shaped}", f"curl -H 'Authorization: Bearer {ours}'"),
        changes=(
            {"identity_class": "env", "field": "HF_TOKEN", "golden": "old-plain-value", "run": "plain-value-here"},
        ),
    )  # fmt: skip
    make.write_case(tmp_path / "run", found, golden, golden)
    for kind in Format:
        report(tmp_path / "run", kind, tmp_path / "out" / kind.value)
    texts = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert len(texts) > 8
    for secret in (ours, shaped, "plain-value-here", "old-plain-value"):
        assert [path.name for path, data in texts.items() if secret.encode() in data] == []


def test_redaction_changes_nothing_in_a_clean_record(make: ModuleType) -> None:
    golden = make.drawn_clip()
    found = make.measured_record("x", golden, make.broken_clip(golden))
    assert redact_record(found, {}) == found
