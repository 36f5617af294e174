"""A needle in any form leaves no channel; a long line costs no more than its length."""

from __future__ import annotations

import base64
import html
import json
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.definitions.environment import check_leased, check_name
from harness.engine.secrets import LINE_CHARACTERS, redact_answer, tail
from harness.goldens.store import HubPin, hub_store
from harness.inspector.sources import HubSource
from harness.redaction import HIDDEN, Redactor, shapes

NEEDLE = 'n33dle "quoted" <tag>&\n/second+line\tof it é'
LINES = ['n33dle "quoted" <tag>&', "/second+line\tof it é"]


@pytest.mark.parametrize(
    "form",
    [NEEDLE, *LINES, json.dumps(NEEDLE), json.dumps(json.dumps(NEEDLE)), repr(NEEDLE), ascii(NEEDLE),
     html.escape(NEEDLE), urllib.parse.quote(NEEDLE), urllib.parse.quote(NEEDLE, safe=""),
     urllib.parse.quote_plus(NEEDLE), NEEDLE.encode().hex(), base64.b64encode(NEEDLE.encode()).decode(),
     base64.urlsafe_b64encode(NEEDLE.encode()).decode()],
)  # fmt: skip
def test_every_form_of_a_value_is_hidden(form: str) -> None:
    shown = Redactor({NEEDLE: HIDDEN}, {}).text(f"before {form} after")
    assert "n33dle" not in shown
    assert "second" not in shown
    assert NEEDLE.encode().hex()[:20] not in shown
    assert base64.b64encode(NEEDLE.encode()).decode()[4:40] not in shown


@given(st.binary(max_size=9), st.binary(max_size=9))
def test_base64_of_anything_around_a_value_hides_its_middle(before: bytes, after: bytes) -> None:
    value = b"correct-horse-battery-staple"
    shown = Redactor({value.decode(): HIDDEN}, {}).values(base64.b64encode(before + value + after).decode())
    padded = base64.b64decode(shown.partition(HIDDEN)[0].ljust(4, "A")[: len(shown.partition(HIDDEN)[0]) // 4 * 4])
    assert HIDDEN in shown
    assert b"horse" not in padded


@pytest.mark.parametrize(
    ("text", "left"),
    [("password: hunter2", "password: <redacted>"), ("https://me:pw@host/x", "https://<redacted>@host/x"),
     ("token hf_abcdefghijklmnopqrst", "token <redacted>"), ('{"password": "a b"}', '{"password": "<redacted>"}'),
     ("-----BEGIN PRIVATE KEY-----\nMIIB\n", "<redacted>"), ("max_tokens=77, token: 226", "max_tokens=77, token: 226"),
     ("tokenizer: umt5, password: none", "tokenizer: umt5, password: none")],
)  # fmt: skip
def test_shapes(text: str, left: str) -> None:
    assert shapes(text) == left


@pytest.mark.parametrize("unit", ["a.", "eyJ", "://a:b", "token", "password: ", "-----BEGIN PRIVATE KEY-----", "b64+/"])
def test_long_text_of_any_kind_is_redacted_in_one_pass(unit: str) -> None:
    # quadratic patterns took minutes for 40,000 characters; a suite that hangs here is the failure
    shapes(unit * (400_000 // len(unit)))


def test_a_log_without_newline_is_read_from_its_end_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(300 << 20)
        file.seek(0, 2)
        file.write(b"x" * 50_000 + b" password: hunter2hunter2\nlast hf_abcdefghijklmnopqrst\n")
    first, last = tail(log, 2, {"KEY": "other-secret"})
    assert len(first) < LINE_CHARACTERS + 60
    assert last == f"last {HIDDEN}"
    assert tail(tmp_path / "none", 2, {}) == ()


def test_an_answer_of_an_engine_holds_no_passed_value() -> None:
    answer = {"receipts": [{"note": "used hunter2-value", "hunter2-value": 1.5}]}
    assert redact_answer(answer, {"KEY": "hunter2-value"}) == {"receipts": [{"note": "used <KEY>", "<KEY>": 1.5}]}  # type: ignore[arg-type]


def test_no_data_file_says_where_a_token_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    pin = {"repo_id": "a/b", "revision": "0" * 40}
    with pytest.raises(ValidationError, match="export HF_ENDPOINT"):
        HubPin(**pin, endpoint="https://elsewhere.example")
    assert HubPin(**pin, endpoint=None).endpoint is None
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    assert hub_store(HubPin(**pin))._endpoint == "https://hub.example"
    for name in (
        "HF_ENDPOINT", "https_proxy", "HUGGINGFACE_CO_STAGING", "AWS_ENDPOINT_URL_S3", "OPENAI_BASE_URL",
        "PIP_INDEX_URL", "UV_EXTRA_INDEX_URL", "socks5_proxy", "HF_XET_ENDPOINT", "NODE_EXTRA_CA_CERTS",
        "PYTHONHTTPSVERIFY", "GIT_SSL_NO_VERIFY", "GIT_SSH_COMMAND", "GIT_CONFIG_COUNT", "SSLKEYLOGFILE", "NETRC",
    ):  # fmt: skip
        for backend in ("command", "openai-video", "diffusers"):
            assert "where tokens are sent" in (check_name(name, backend, (name,)) or ""), name
    assert "marks the processes" in (check_name("QUANTGATE_ENGINE", "command", ()) or "")
    assert "marks the processes" in (check_leased("QUANTGATE_ENGINE") or "")
    for name in ("MODE", "NCCL_PROXY_CPUSET", "SGLANG_STAGING_BUFFER", "NO_PROXY"):
        assert check_name(name, "command", ()) is None


def test_the_hub_s_token_goes_to_no_other_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, bool]] = []
    monkeypatch.setattr("huggingface_hub.utils.build_hf_headers", lambda: {"authorization": "Bearer t"})
    monkeypatch.setattr(
        "huggingface_hub.utils.http_backoff",
        lambda _method, url, *, headers, **_: sent.append((url, "authorization" in headers)),
    )
    source = HubSource.__new__(HubSource)
    source._api = SimpleNamespace(endpoint="https://hub.example")  # type: ignore[assignment]
    for url in (
        "https://hub.example/x", "http://hub.example/x", "https://hub.example:444/x", "https://cdn.example/x",
        "https://hub.example@cdn.example/x", "https://cdn.example/hub.example",
    ):  # fmt: skip
        source._get(url, 0, 1, "x")
    assert [url for url, with_token in sent if with_token] == ["https://hub.example/x"]
