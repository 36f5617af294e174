"""A needle in any form leaves no channel; a long line costs no more than its length."""

from __future__ import annotations

import base64
import html
import json
import signal
import urllib.parse
from collections.abc import Callable
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
from harness.plugin.printing import printable
from harness.redaction import HIDDEN, Redactor, safe_text, shapes

NEEDLE = 'n33dle "quoted" <tag>&\n/second+line\tof it é'
LINES = ['n33dle "quoted" <tag>&', "/second+line\tof it é"]


@pytest.mark.parametrize(
    "form",
    [NEEDLE, *LINES, json.dumps(NEEDLE), json.dumps(json.dumps(NEEDLE)), repr(NEEDLE), ascii(NEEDLE),
     html.escape(NEEDLE), repr(NEEDLE.encode()), urllib.parse.quote(NEEDLE), urllib.parse.quote(NEEDLE, safe=""),
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


@pytest.mark.parametrize(
    "unit",
    ["a.", "eyJ", "://a:b", "token", "password: ", "-----BEGIN PRIVATE KEY-----", "b64+/", "--", "--a-", "--password ",
     "<a", "<password>", "SG.a", "SG.", "ya29.", "dapi", "sk_live_", "cookie: ", "authorization:", "login a",
     "login a password ", "&sig=", "hooks.slack.com/services/", "bearer ", "_pass", "glrt-", "r8_"],
)  # fmt: skip
def test_long_text_of_any_kind_is_redacted_in_one_pass(unit: str) -> None:
    # quadratic patterns took minutes for 40,000 characters; a suite that hangs here is the failure
    shapes(unit * (100_000 // len(unit)))


_RANDOM = "Zq7Xv9Kt2Lw4Rb8Nc3Mf6Hd1"


@pytest.mark.parametrize(
    "text",
    ["sk_live_{}", "dckr_pat_{}", "glrt-{}", "ya29.{}", "api_org_{}", "https://hooks.slack.com/services/T0/B0/{}",
     "SG.{}.{}", "AccountName=x;AccountKey={}==;End", "https://x.blob/c?sv=1&sig={}%3D",
     "GET /x?X-Amz-Signature={}&a=1",
     "Authorization: token {}", '{{"authorization": "ApiKey {}"}}', "Cookie: session={}; a=b", "Set-Cookie: sid={}",
     "run --hf-token {} x", "mysql --password {}", "machine h login u password {}", "ENCRYPTION_KEY={}", "SSH_KEY={}",
     "SMTP_PASS={}", "MYSQL_PWD={}", "AZURE_DEVOPS_EXT_PAT={}", "BEARER {}", "Bearer%20{}", "a?password%3D{}",
     "<db:password>{}</db:password>", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n{}\n-----END PGP PRIVATE KEY BLOCK-----"],
)  # fmt: skip
def test_secrets_of_other_services_and_in_other_places_are_hidden(text: str) -> None:
    shown = shapes(text.format(_RANDOM, _RANDOM))
    assert _RANDOM not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "text",
    ["--max-token 512 --tokenizer umt5", "a cookie is baked; authorization is needed", "--password --next",
     "login as a password user", "first_pass = 3, compass: north", "<token>", "sig=x, no signature", "a bearer of news",
     "transformer.blocks.0.attn1.to_k.weight", "glossary, glances-of-anything"],
)  # fmt: skip
def test_ordinary_text_stays(text: str) -> None:
    assert shapes(text) == text


@pytest.mark.parametrize("sign", ["\x1b[0m", "\x1b[1;31m", "\u200b", "\u202e", "\x07", "\xad"])
@pytest.mark.parametrize("show", [safe_text, printable])
def test_a_colour_inside_a_token_does_not_carry_it_to_a_terminal(show: Callable[[str], str], sign: str) -> None:
    assert _RANDOM[8:] not in show(f"hf_{_RANDOM[:8]}{sign}{_RANDOM[8:]} ")
    assert _RANDOM[8:] not in show(f"hf_{sign}{_RANDOM} ")


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


@pytest.mark.parametrize(
    "text",
    [
        "dckr_pat_{}", "sk_live_{}", "rk_test_{}", "r8_{}", "SG.{}.{}", "ya29.{}", "GOCSPX-{}",
        "--token {}", "run --api-key {} --steps 4", "--hf-access-token  {}", "Authorization: token {}",
        "Cookie: session={}; theme=dark", "set-cookie: sid={}", '"Cookie": "sid={}"', "redis://:{}@host:1",
        "Server=x;pwd={};", "https://h/a?sig={}&b=1", "https://h/a?X-Amz-Signature={}", "password%3D{}",
        "<password>{}</password>", "&lt;token&gt;{}&lt;/token&gt;", "machine h login ann password {}",
    ],
)  # fmt: skip
def test_shapes_and_places_of_secrets_are_hidden(text: str) -> None:
    needle = "S3cretaB1cS3cretaB1c99"
    assert needle not in shapes(text.replace("{}", needle))
    assert needle not in shapes(f"error: {text.replace('{}', needle)} (see the log)")


@pytest.mark.parametrize(
    "text",
    [
        "run it with --max-tokens 512", "see <token> and </token>", "--api-key", "--token -v", "login failed for ann",
        "PWD=/work/project", "signature=(a, b)", "cookie cutter: 3", "SG.1.2", "sk_live", "the key is lost",
        "--key 4", "https://host:443/a?b=c", "password%3D",
    ],
)  # fmt: skip
def test_text_that_only_looks_like_it_stays(text: str) -> None:
    assert shapes(text) == text


@pytest.mark.parametrize(
    "piece", ["token>", "login x ", "--a-b-c-token ", "cookie: ", "?sig=", "SG.a", "://:", "ya29."]
)
def test_a_line_of_beginnings_takes_linear_time(piece: str) -> None:
    signal.alarm(20)  # quadratic time would take minutes
    try:
        shapes(piece * (200_000 // len(piece)))
    finally:
        signal.alarm(0)


VALUE = "abcdefghijkl123"
SERVICE = "AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.mark.parametrize(
    "text",
    [
        f"tool --token {VALUE} run",
        f"tool --hub-api-key {VALUE}",
        f"['tool', '--token', '{VALUE}']",
        f'{{"argv": ["tool", "--password", "{VALUE}"]}}',
        f'"[\\"tool\\", \\"--password\\", \\"{VALUE}\\"]"',
        f"curl -u bob:{VALUE} https://host",
        f"machine host login bob password {VALUE}",
        f"AUTHORIZATION: BEARER {VALUE}",
        f"Authorization: token {VALUE}",
        f"{{'Authorization': 'ApiKey {VALUE}'}}",
        f"Cookie: session={VALUE}",
        f"Set-Cookie: sid={VALUE}; Path=/",
        f"Cookie: theme=dark; session={VALUE}",
        f"redis://:{VALUE}@host:1",
        f"password%3D{VALUE}",
        f"&lt;token&gt;{VALUE}&lt;/token&gt;",
        f"<password>{VALUE}</password>",
        f"<hub_token>{VALUE}</hub_token>",
        f"https://host/file?sv=2020&sig={VALUE}",
        f"https://host/file?a=1&amp;X-Amz-Signature={VALUE}",
        f"Server=host;Pwd={VALUE};",
        f"AccountKey={VALUE}==;EndpointSuffix=core",
        f'{{"auths": {{"host": {{"auth": "{VALUE}"}}}}}}',
        f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n{VALUE}\n-----END PGP PRIVATE KEY BLOCK-----",
        f"password \x1b[1m= \x1b[0m{VALUE}",
    ],
)
def test_a_secret_is_recognised_by_the_place_where_it_stands(text: str) -> None:
    shown = Redactor(environment={}).text(text)
    assert VALUE not in shown
    assert "<redacted>" in shown


@pytest.mark.parametrize(
    "head",
    [
        "api_org_", "glrt-", "dckr_pat_", "ya29.", "xapp-1-", "sk_live_", "rk_test_", "whsec_", "glsa_", "hvs.",
        "r8_", "GOCSPX-",
        "SG.abcdefghijklmnopqrstuv.", "https://hooks.slack.com/services/T01/B01/",
    ],
)  # fmt: skip
def test_tokens_of_further_services_are_recognised(head: str) -> None:
    assert SERVICE not in Redactor(environment={}).text(f"it sent {head}{SERVICE} to the server")


@pytest.mark.parametrize("between", ["\x1b[0m", "\u200b", "\x00"])
def test_characters_that_are_not_shown_hide_no_secret(between: str) -> None:
    redactor = Redactor({"vault-needle-77": "<KEY>"}, environment={})
    shown = redactor.text(f"a vault-{between}needle-77 and hf_AbCdEfGh{between}IjKlMnOpQrStUv z")
    assert "needle-77" not in shown
    assert "MnOp" not in shown
    coloured = "\x1b[31mred\x1b[0m and no secret"
    assert redactor.text(coloured) == coloured


@pytest.mark.parametrize(
    "text",
    [
        "tool --tokens 512 --max-token 77",
        "tool --token-file /home/bob/file",
        "diff -u a/b.py c/d.py",
        "<token>12</token> of <keys>",
        "sg.conv and layer8_weight",
        "see ?key=1&code=2",
        "authorization: required",
        "cookie cutter: 3",
        "signature=(a, b)",
        "PWD=/work/project",
        "--token -v",
        "login failed for ann",
    ],
)
def test_ordinary_text_beside_such_words_stays(text: str) -> None:
    assert Redactor(environment={}).text(text) == text


@pytest.mark.parametrize("value", ["plus+slash/equals=needle"])
def test_forms_of_a_value_in_a_url_within_a_url_and_in_json_with_escaped_slashes(value: str) -> None:
    redactor = Redactor({value: "<KEY>"}, environment={})
    assert redactor.text("plus%252Bslash%252Fequals%253Dneedle") == "<KEY>"
    assert redactor.text(r"plus+slash\/equals=needle") == "<KEY>"
