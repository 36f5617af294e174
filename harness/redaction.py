"""Remove secrets from every text that leaves the process, in time linear in its length.

Two kinds of secret are removed. Values: of this process's variables with a secret name (``HF_TOKEN``), and of variables
that a case passes to its engine. Values are replaced in every form that text may carry (plain, line by line, escaped
for JSON, Python, HTML or a URL, in base64 or hexadecimal). Shapes: tokens of well-known services, credentials in a URL,
private keys, and the value after a word such as ``password:``.

Every pattern below consumes what it scans or gives up after a bounded number of characters, so no text takes more than
linear time. A run of one kind of character is entered only at its beginning (the lookbehinds), never at each of its
characters.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from harness.text import clean

HIDDEN = "<redacted>"
SHORTEST_VALUE = 8
"""Least characters of a value that is redacted. A shorter value could be an ordinary word."""
_SHORT = 200
"""Characters of a text whose result is kept for the next time."""
SHORTEST_BEGINNING = 4
"""Least characters of the beginning of a value that is hidden if a text ends with it."""
_SHORTEST_LINE = 8
_MAX_FORMS_OF = 1 << 14
"""Longest value, in characters, that is searched in every form. A longer value is searched as it is and per line."""

_WORD = (
    r"(?:tokens?(?<!s)|secrets?|passwords?|passwd|passphrase|api[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key"
    r"|credentials?|secret[_-]?key|auth[_-]?key"
    r"|(?:account|encryption|signing|master|deploy|ssh|shared[_-]?access)[_-]?key|(?<=_)(?:pass|pwd|pat))"
)
_SECRET_NAME = re.compile(rf"[A-Z0-9_.-]{{0,200}}{_WORD}", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?P<head>{_WORD}[\"'\\]{{0,6}}[ \t]{{0,8}}(?:=>|:=|[=:]|%3[AD])[ \t]{{0,8}})"
    r"(?P<value>\\{0,3}\"(?P<double>[^\"\n]*)|\\{0,3}'(?P<single>[^'\n]*)|[^\s\"',;<>]+)",
    re.IGNORECASE,
)
_PLAIN_VALUES = frozenset({"true", "false", "null", "none", "yes", "no", "0", "1", "required", "missing", "unset"})
_SHAPES = re.compile(
    r"""hf_[A-Za-z0-9]{16,}
    | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_[A-Za-z0-9_]{16,}
    | gl(?:pat|rt|dt|ft|soat|cbt|ptt|oas|agent)-[A-Za-z0-9_-]{16,} | (?:xox[abeprs]|xapp)-[A-Za-z0-9-]{10,}
    | GOCSPX-[A-Za-z0-9_-]{16,} | (?<=://):[^/\s@"'<>]{1,1000}+(?=@)
    | api_org_[A-Za-z0-9]{16,} | (?<![A-Za-z0-9])r8_[A-Za-z0-9]{20,} | dckr_(?:pat|oat)_[A-Za-z0-9_-]{16,}
    | (?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,} | whsec_[A-Za-z0-9+/=]{16,} | glsa_[A-Za-z0-9_]{16,}
    | do[opr]_v1_[0-9a-f]{32,} | shp(?:at|ca|pa|ss)_[0-9a-fA-F]{16,} | ya29\.[A-Za-z0-9_.-]{16,}
    | (?<![A-Za-z0-9])hv[sbr]\.[A-Za-z0-9_-]{16,} | (?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}
    | (?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{16,}
    | (?<![A-Za-z0-9_-])sk-[A-Za-z0-9_-]{20,} | (?:AKIA|ASIA)[0-9A-Z]{16}
    | dapi[0-9a-f]{32} | AGE-SECRET-KEY-1[0-9A-Z]{16,}
    | nvapi-[A-Za-z0-9_-]{16,} | npm_[A-Za-z0-9]{30,} | pypi-[A-Za-z0-9_-]{30,} | AIza[A-Za-z0-9_-]{30,}
    | (?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]+
    | (?i:(?<=bearer\ )|(?<=bearer%20))[A-Za-z0-9._~+/=-]{8,} | (?<=[Bb]asic\ )[A-Za-z0-9+/=]{8,}
    | (?<=://)[^/\s:@"'<>]{1,200}+:[^/\s@"'<>]{1,1000}+(?=@)
    | (?<=://)[^/\s:@"'<>]{8,1000}+(?=@)""",
    re.VERBOSE,
)
_SHAPE_MARKS = (
    *(
        "hf_",
        "gh",
        "github_pat_",
        "gl",
        "xox",
        "xapp-",
        "sk-",
        "akia",
        "asia",
        "nvapi-",
        "npm_",
        "pypi-",
        "aiza",
        "eyj",
    ),
    *(
        "api_org_",
        "gocspx-",
        "r8_",
        "dckr_",
        "_live_",
        "_test_",
        "whsec_",
        "_v1_",
        "shp",
        "ya29.",
        "hvs.",
        "hvb.",
        "hvr.",
        "sg.",
    ),
    *("hooks.slack.com/", "dapi", "age-secret", "earer", "asic ", "://"),
)
"""In small letters: text without one of these has no token of a known shape."""
_ARGUMENT = re.compile(
    rf"(?P<head>(?<![\w-])--?(?:[A-Za-z0-9]{{1,30}}[-_]){{0,4}}{_WORD}"
    r"(?:[ \t]{1,4}|[\"'\\]{1,6},[ \t]{0,4}[\"'\\]{1,6}))(?P<value>[^\s\"',;<>-][^\s\"',;<>]*)",
    re.IGNORECASE,
)
"""An option with its value in the next word: ``--token abc``, ``["--token", "abc"]``."""
_HEADER = re.compile(
    r"(?P<head>authorization[\"'\\]{0,6}[ \t]{0,8}[:=][ \t]{0,8}[\"'\\]{0,6}(?:[A-Za-z]{2,20}[ \t]{1,4})?)"
    r"(?P<value>[^\s\"'<>,;\\]+)",
    re.IGNORECASE,
)
_COOKIE = re.compile(
    r"(?P<head>(?<![A-Za-z])cookie[\"'\\]{0,6}:[ \t]{1,8}[\"'\\]{0,6})"
    r"(?P<value>[^\s=;\"'<>\\]{1,100}=[^\r\n\"'\\]{1,4000})",
    re.IGNORECASE,
)
"""All cookies of a header: any of them may be the session."""
_ELEMENT = re.compile(
    rf"(?P<head>{_WORD}(?:>|&gt;))(?P<value>[^\s<&]{{1,1000}}+)(?=</|&lt;/)",
    re.IGNORECASE,
)
_PARAMETER = re.compile(
    r"(?P<head>(?<=[?&;])(?:sig|signature|x-(?:amz|goog|oss)-(?:signature|credential)|pwd|auth|code|key)="
    r"|(?<![A-Za-z])(?:account|sharedaccess)key="
    r"|[\"']auth\\{0,3}[\"'][ \t]{0,4}:[ \t]{0,4}\\{0,3}[\"']"
    r"|(?<![\w-])(?:-u|--user)[ =][^\s:\"']{1,100}:"
    r"|(?<![\w-])login[ \t]{1,4}[^\s]{1,100}[ \t]{1,4}password[ \t]{1,4})"
    r"(?P<value>[^\s&;\"'<>\\]{6,})",
    re.IGNORECASE,
)
_PHRASES = (
    (("-",), _ARGUMENT),
    (("authorization",), _HEADER),
    (("cookie",), _COOKIE),
    (("</", "&lt;/"), _ELEMENT),
    (("sig", "pwd=", "auth", "code=", "key=", "credential=", "-u", "user", "login"), _PARAMETER),
)
"""Pairs of marks in small letters, one of which the text must hold, and the pattern that is then searched."""
_WORD_MARKS = ("token", "secret", "passw", "passphrase", "key", "credential", "_pass", "_pwd", "_pat")
KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")

_lock = threading.Lock()
_registered: dict[str, str] = {}


def register(values: Mapping[str, str]) -> None:
    """Redact these values from now on in every text that this process writes.

    Args:
        values: name to secret value, such as ``{"HF_TOKEN": "hf_..."}``; the text shows ``<HF_TOKEN>`` instead.
    """
    with _lock:
        _registered.update({value: f"<{name}>" for name, value in values.items() if value})


def registered() -> dict[str, str]:
    """Return the values that :func:`register` took in this process: value to its replacement."""
    with _lock:
        return dict(_registered)


@lru_cache(maxsize=1 << 12)
def is_secret_name(name: str) -> bool:
    """Return whether a key or variable of this name holds a secret: the name ends in a word such as ``token``."""
    return len(name) <= 300 and _SECRET_NAME.fullmatch(name) is not None


def values_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables with secret names, longest first, without those below ``SHORTEST_VALUE``."""
    values = {value for name, value in environment.items() if is_secret_name(name) and len(value) >= SHORTEST_VALUE}
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


@lru_cache(maxsize=256)
def forms(value: str) -> tuple[str, ...]:
    """Return every form in which text may carry ``value``, longest first: escaped, encoded, cut into lines."""
    lines = [value, *(line.strip() for line in value.splitlines() if len(line.strip()) >= _SHORTEST_LINE)]
    shapes_of_value = set(lines)
    if len(value) <= _MAX_FORMS_OF:
        for text in lines:
            shapes_of_value |= _escaped(text)
        shapes_of_value |= _encoded(value)
    return tuple(sorted((form for form in shapes_of_value if form), key=lambda form: (-len(form), form)))


def _escaped(text: str) -> set[str]:
    # some writers of JSON escape the slash
    once = {
        json.dumps(text)[1:-1].replace("/", "\\/"),
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        ascii(text)[1:-1],
        repr(text.encode("utf-8", "surrogateescape"))[2:-1],
    }
    marked = html.escape(text, quote=True)
    references = {marked, html.escape(text, quote=False)}
    references.add(marked.replace("&#x27;", "&#39;").replace("&quot;", "&#34;"))
    urls = {urllib.parse.quote(text, safe=safe, errors="replace") for safe in ("", "/")}
    urls.add(urllib.parse.quote_plus(text, errors="replace"))
    # a URL inside the query of another URL is escaped twice
    urls |= {urllib.parse.quote(url, safe="") for url in set(urls)}
    # percent escapes are equally valid in lower case
    urls |= {re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), url) for url in set(urls)}
    return once | {json.dumps(form)[1:-1] for form in once} | references | urls


def _encoded(text: str) -> set[str]:
    data = text.encode("utf-8", "surrogateescape")
    encodings = {data.hex(), data.hex().upper()}
    for padding in range(3):  # inside other data the same bytes have one of three base64 forms
        code = base64.b64encode(b"\0" * padding + data).decode()
        first = (padding * 8 + 5) // 6  # characters that the bytes before the value have a part in
        last = len(code.rstrip("=")) - (1 if (padding + len(data)) % 3 else 0)
        core = code[first:last]
        if len(core) >= SHORTEST_VALUE:
            encodings |= {core, core.replace("+", "-").replace("/", "_")}
    return encodings


class Redactor:
    """Redacts text by values and by shapes.

    Args:
        values: value to its replacement, in addition to the values that :func:`register` took.
        environment: values of its variables with secret names are redacted too; ``os.environ`` if not given.
    """

    def __init__(self, values: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None) -> None:
        hidden = dict.fromkeys(values_of(os.environ if environment is None else environment), HIDDEN)
        hidden |= registered() if environment is None else {}
        hidden |= values or {}
        pairs = {form: mark for value, mark in hidden.items() for form in forms(value)}
        # longest first: a form that contains another form must be replaced before it
        self._forms = sorted(pairs.items(), key=lambda pair: (-len(pair[0]), pair[0]))
        self.longest = max((len(form.encode("utf-8", "surrogateescape")) for form in pairs), default=0)
        """Bytes of the longest form of a value; 0 without values."""
        self.several_lines = tuple(sorted(value for value in hidden if len(value.splitlines()) > 1))
        """Values that lie across several lines of a text."""

    def values(self, text: str) -> str:
        """Return ``text`` without known values, in any of their forms."""
        for form, mark in self._forms:
            if form in text:
                text = text.replace(form, mark)
        return text

    def cut_off(self, text: str) -> str:
        """Return ``text``, a text that ended in the middle, without the beginning of a known value at its end."""
        for form, mark in self._forms:
            for size in range(min(len(form) - 1, len(text)), SHORTEST_BEGINNING - 1, -1):
                if text.endswith(form[:size]):
                    return text[:-size] + mark
        return text

    def text(self, text: str) -> str:
        """Return ``text`` without known values, tokens of known shapes, and values after words like ``password:``.

        A secret with colours or control characters inside is found too: the text without them is looked at as well,
        since a program that prints it, or a person who pastes it, may drop them. Such a text comes back without them.
        """
        shown = shapes(self.values(text))
        cleaned = clean(shown)
        if cleaned == shown:
            return shown
        again = shapes(self.values(cleaned))
        return shown if again == cleaned else again

    def json(self, value: Any, *, plain: Iterable[str] = ()) -> Any:
        """Return a JSON value with every string redacted, keys and values under secret names included.

        Args:
            value: nested at most ``harness.reading.MAX_DEPTH`` levels.
            plain: keys of the outermost object below which only known values are replaced: their content is part
                of a digest, and comes from files that anybody may read.
        """
        if isinstance(value, dict):
            whole = set(plain)
            return {
                self.text(key): self._values_only(item) if key in whole else self._under(key, item, value)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.json(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def _under(self, key: str, item: Any, row: Mapping[str, Any]) -> Any:
        # a row of the "what changed" table names its field in `field`, beside the values `golden` and `run`
        named = is_secret_name(key) or (key in ("golden", "run") and is_secret_name(str(row.get("field", ""))))
        if named and isinstance(item, str):
            return HIDDEN if item else item
        if named and isinstance(item, list | dict):
            return _hide_strings(item)
        return self.json(item)

    def _values_only(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                self.values(key): HIDDEN
                if is_secret_name(key) and isinstance(item, str) and item
                else self._values_only(item)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._values_only(item) for item in value]
        return self.values(value) if isinstance(value, str) else value


def _hide_strings(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hide_strings(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hide_strings(item) for item in value]
    return HIDDEN if isinstance(value, str) and value else value


def shapes(text: str) -> str:
    """Return ``text`` without tokens of a known shape, private keys, and values after words such as ``password:``."""
    # a record repeats its names of modules and its digests tens of thousands of times
    return _short_shapes(text) if len(text) <= _SHORT else _shapes_in(text)


@lru_cache(maxsize=1 << 15)
def _short_shapes(text: str) -> str:
    return _shapes_in(text)


def _shapes_in(text: str) -> str:
    if "PRIVATE KEY" in text:
        text = _without_keys(text)
    # most text holds none of these marks, and the search costs a hundredth of the patterns
    low = text.lower()
    if any(mark in low for mark in _SHAPE_MARKS):
        text = _SHAPES.sub(HIDDEN, text)
    for marks, pattern in _PHRASES:
        if any(mark in low for mark in marks):
            text = pattern.sub(_hidden_value, text)
    return _ASSIGNED.sub(_hidden_value, text) if any(mark in low for mark in _WORD_MARKS) else text


def shape_of_token(text: str) -> bool:
    """Return whether ``text`` holds a token of a known shape (``hf_...``) or a password in a URL."""
    return any(mark in text.lower() for mark in _SHAPE_MARKS) and _SHAPES.search(text) is not None


def redact(text: str) -> str:
    """Return ``text`` without secrets; see :class:`Redactor`."""
    return Redactor().text(text)


def safe_text(text: str) -> str:
    """Return ``text`` for a terminal or a log: without secrets, terminal colours and control characters."""
    return clean(redact(text))


def _hidden_value(match: re.Match[str]) -> str:
    value = match["value"]
    quote = value[: len(value) - len(value.lstrip("\\\"'"))] if value[:1] in "\\\"'" else ""
    bare = value[len(quote) :].rstrip("\\")
    word = bare.strip("\"'`)]}.")
    if not word or word.lower() in _PLAIN_VALUES or (word[:1] == "<" and word[-1:] == ">") or set(word) <= {"*"}:
        return match[0]
    if not quote and word.isdigit() and len(word) < 6:  # a count of tokens
        return match[0]
    return f"{match['head']}{quote}{HIDDEN}{value[len(quote) + len(bare) :]}"


def _without_keys(text: str) -> str:
    shown, at = [], 0
    while (begin := KEY_BEGIN.search(text, at)) is not None:
        shown += [text[at : begin.start()], HIDDEN]
        end = KEY_END.search(text, begin.end())
        if end is None:
            # the end of the key is missing, so everything after its beginning may be key
            return "".join(shown)
        at = end.end()
    return "".join([*shown, text[at:]])
