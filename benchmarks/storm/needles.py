"""Needles: a secret in any field, in any form, reaches no file and no output."""

from __future__ import annotations

import base64
import html
import json
import os
import random
import string
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.storm import samples
from benchmarks.storm.mutate import texts
from benchmarks.storm.samples import CASE
from harness import redaction
from harness.engine.log import RedactedLog
from harness.engine.secrets import redact_answer, tail
from harness.records.case_record import CaseRecord
from harness.report.history import store
from harness.report.load import load_run
from harness.report.markdown import comment, job_summary, run_json
from harness.report.render import render_run
from harness.report.terminal import show_case

FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": lambda value: json.dumps(value)[1:-1],
    "json, unescaped": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "json in json": lambda value: json.dumps(json.dumps(value)[1:-1])[1:-1],
    "repr": lambda value: repr(value)[1:-1],
    "html": html.escape,
    "url": urllib.parse.quote,
    "url, strict": lambda value: urllib.parse.quote(value, safe=""),
    "url, plus": urllib.parse.quote_plus,
    "hexadecimal": lambda value: value.encode().hex(),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64, header": lambda value: base64.b64encode(b"user:" + value.encode()).decode(),
    "base64, url": lambda value: base64.urlsafe_b64encode(b"u:" + value.encode()).decode(),
    "by line": lambda value: "\n  | ".join(value.splitlines()),
}
"""How programs print a value. Written here and not taken from the code under test."""
SHAPES: tuple[Callable[[random.Random], tuple[str, str]], ...] = (
    lambda rng: _both(f"hf_{_letters(rng, 34)}", "token {} was refused"),
    lambda rng: _both(f"ghp_{_letters(rng, 36)}", "{}"),
    lambda rng: _both(f"github_pat_{_letters(rng, 40)}", "x={};"),
    lambda rng: _both(f"glpat-{_letters(rng, 20)}", "{}"),
    lambda rng: _both(f"AKIA{_letters(rng, 16).upper()}", "id {}"),
    lambda rng: _both(f"sk-{_letters(rng, 40)}", "key: {}"),
    lambda rng: _both(_letters(rng, 14), "https://user:{}@hub.example/x"),
    lambda rng: _both(_letters(rng, 14), "password: {}"),
    lambda rng: _both(_letters(rng, 14), "HF_TOKEN={} python x.py"),
    lambda rng: _both(_letters(rng, 14), '{{"api_key": "{}"}}'),
    lambda rng: _both(_letters(rng, 30), "Authorization: Bearer {}"),
    lambda rng: _both(_letters(rng, 44), "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"),
)
"""Tokens that are recognized without being known: the secret, and the text that holds it."""
_ALPHABET = string.ascii_letters + string.digits + "+/=_-.~!%&<>\"'\\ äß漢"


def attack(rng: random.Random, folder: Path) -> tuple[str, str]:
    """Hide one secret in a record, a log and an answer, and search every file and output for it."""
    if rng.random() < 0.6:
        value = _value(rng)
        form = rng.choice(tuple(FORMS))
        printed, hidden, name = FORMS[form](value), _searched(value), f"value, {form}"
        environment = {"STORM_TOKEN": value}
    else:
        number = rng.randrange(len(SHAPES))
        secret, printed = SHAPES[number](rng)
        hidden, name, environment = (secret,), f"shape {number}", {}
    channel = rng.choice(("record", "page", "markdown", "terminal", "history", "log", "answer", "json"))
    message = f"{channel}: {name}"
    with _registered(environment, registered=rng.random() < 0.5):
        text = _channel(channel, printed, rng, folder, environment)
    leaked = next((piece for piece in hidden if piece in text), "")
    return message, f"{len(leaked)} characters of a secret are in the output" if leaked else ""


def _value(rng: random.Random) -> str:
    """A secret: random text, of one line or of several."""
    lines = [_text(rng, rng.randrange(12, 50)) for _ in range(rng.choice((1, 1, 1, 3)))]
    return "\n".join(lines)


def _text(rng: random.Random, count: int) -> str:
    # blanks at the end of a line are not kept by every program that prints it
    return "q" + "".join(rng.choice(_ALPHABET) for _ in range(count - 2)) + "z"


def _letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(count))


def _both(secret: str, pattern: str) -> tuple[str, str]:
    return secret, pattern.format(secret)


def _searched(value: str) -> tuple[str, ...]:
    """The pieces of which none may be in the output: the value in every form, and each of its lines."""
    pieces = {make(value) for make in FORMS.values()} | set(value.splitlines())
    return tuple(piece for piece in pieces if len(piece) >= redaction.SHORTEST_VALUE)


@contextmanager
def _registered(environment: Mapping[str, str], *, registered: bool) -> Iterator[None]:
    """Make the values known: as a passed-through variable, or as a variable of this process."""
    before = dict(redaction._registered)
    try:
        if registered:
            redaction.register(environment)
        else:
            os.environ.update(environment)
        yield
    finally:
        for name in environment:
            os.environ.pop(name, None)
        redaction._registered.clear()
        redaction._registered.update(before)


def _channel(channel: str, printed: str, rng: random.Random, folder: Path, environment: Mapping[str, str]) -> str:
    """Push the text through one channel and return all that came out."""
    if channel == "log":
        return _log(printed, rng, folder, environment)
    if channel == "answer":
        data: Any = {"packages": {printed: "1"}, "notes": [printed, {"deep": f"a {printed} b"}]}
        if not environment:  # an answer keeps shapes until it is written into a record
            return ""
        return json.dumps(redact_answer(data, environment), ensure_ascii=False)
    run = folder / "run"
    _hidden_in(printed, rng).write(run / CASE / "record.json")
    if channel == "record":
        return (run / CASE / "record.json").read_text(encoding="utf-8")
    loaded = load_run(run)
    if channel == "page":
        render_run(run)
        return "\n".join(path.read_text(encoding="utf-8") for path in (run / "report").rglob("*.html"))
    if channel == "history":
        with store.open_history(folder / "h.sqlite") as history:
            history.add([entry.record for entry in loaded.entries])
        return (folder / "h.sqlite").read_bytes().decode("utf-8", "replace")
    outputs = {
        "markdown": lambda: comment(loaded) + job_summary(loaded),
        "json": lambda: run_json(loaded),
        "terminal": lambda: show_case(loaded.entries[0]),
    }
    return outputs[channel]()


def _hidden_in(printed: str, rng: random.Random) -> CaseRecord:
    """A record with the text in one of its fields that takes it."""
    while True:
        body = samples.record().as_json()
        # fields under a digest keep shapes: they come from files that anybody may read
        top = rng.choice([key for key in body if key not in CaseRecord.plain])
        places = texts({top: body[top]}) if not isinstance(body[top], str) else [(body, top)]
        if not places:
            continue
        holder, key = rng.choice(places)
        if isinstance(body[top], str):
            body[top] = f"before {printed} after"
        else:
            holder[key] = f"before {printed} after"
        try:
            return CaseRecord.model_validate_json(json.dumps(body))
        except (ValidationError, ValueError):
            continue


def _log(printed: str, rng: random.Random, folder: Path, environment: Mapping[str, str]) -> str:
    """Print the text into an engine's log, cut into pieces, and return file and tail."""
    path = folder / "engine.log"
    writer = RedactedLog(path, environment)
    data = f"start\nkey={printed} end\n".encode()
    if rng.random() < 0.3:
        data = b"x" * rng.randrange(1, 40_000) + data
    at = 0
    while at < len(data):
        size = rng.choice((1, 3, 17, 1000, 70_000))
        os.write(writer.writer, data[at : at + size])
        at += size
        if rng.random() < 0.2:
            writer.settle()
    os.close(writer.writer)
    writer.close()
    shown = path.read_text(encoding="utf-8", errors="surrogateescape")
    return shown + "\n".join(tail(path, 60, environment))
