"""The manifest on disk, and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.records.golden import AcceptedIndex, GoldenManifest, Part, Provenance
from harness.records.identity import Identity

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
filled = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
fields = st.dictionaries(text, json_value, max_size=3)
identities = st.builds(Identity, request=fields, hardware=fields, weights=fields, env=fields, subject=fields)
names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,20}\Z")
sha = st.from_regex(r"\A[0-9a-f]{64}\Z")


@st.composite
def manifests(draw: st.DrawFn) -> GoldenManifest:
    """Any manifest."""
    part_names = draw(st.lists(names, min_size=1, max_size=3, unique_by=str.lower))
    parts = {
        name: Part(path=f"{name}.x", sha256=draw(sha), bytes=draw(st.integers(0, 2**40)), media=draw(filled))
        for name in part_names
    }
    size = st.integers(1, 4096)
    return GoldenManifest(
        case=draw(names),
        runner=draw(names),
        identity=draw(identities),
        parts=parts,
        shape=draw(st.tuples(size, size, size, st.just(3))) if "clip" in parts else None,
        created=draw(filled),
        author=draw(filled),
        reason=draw(filled),
        provenance=Provenance(run=draw(filled), code=draw(text)),
        previous=draw(st.none() | sha),
    )


@settings(max_examples=40, deadline=None)
@given(manifests())
def test_round_trip_keeps_value_and_digest(manifest: GoldenManifest) -> None:
    back = GoldenManifest.model_validate_json(manifest.to_json())
    assert back == manifest
    assert back.digest() == manifest.digest()


@settings(max_examples=40, deadline=None)
@given(manifests())
def test_digest_is_of_the_content_not_of_the_layout(manifest: GoldenManifest) -> None:
    shuffled = json.dumps(dict(reversed(json.loads(manifest.to_json()).items())), indent=7)
    assert GoldenManifest.model_validate_json(shuffled).digest() == manifest.digest()


@settings(max_examples=40, deadline=None)
@given(manifests(), filled)
def test_digest_moves_with_the_content(manifest: GoldenManifest, author: str) -> None:
    other = manifest.model_copy(update={"author": author})
    assert (other.digest() == manifest.digest()) == (author == manifest.author)


def test_digest_is_what_the_documentation_says(make: Callable) -> None:
    manifest = make()[0]
    body = json.dumps(json.loads(manifest.to_json()), sort_keys=True, separators=(",", ":"))
    assert manifest.digest() == hashlib.sha256(body.encode()).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": None}, "its shape is stated"),
        ({"case": "../x"}, "case"),
        ({"runner": ""}, "runner"),
        ({"parts": {}}, "parts"),
        ({"reason": ""}, "reason"),
        ({"surprise": 1}, "surprise"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_incoherent_manifest_is_refused(make: Callable, change: dict[str, Any], message: str) -> None:
    body = {**json.loads(make()[0].to_json()), **change}
    with pytest.raises(ValidationError, match=message):
        GoldenManifest.model_validate(body)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/b", "", ".x", "a\\b", "x" * 200])
def test_part_cannot_leave_its_folder(path: str) -> None:
    with pytest.raises(ValidationError, match="path"):
        Part(path=path, sha256="0" * 64, bytes=1, media="x")


@pytest.mark.parametrize("path", ["manifest.json", "Manifest.JSON", "accepted.json", "candidate.json"])
def test_part_cannot_take_a_reserved_name(make: Callable, path: str) -> None:
    body = json.loads(make()[0].to_json())
    body["parts"]["trace"]["path"] = path
    with pytest.raises(ValidationError, match="cannot be called"):
        GoldenManifest.model_validate(body)


def test_two_parts_cannot_share_a_file(make: Callable) -> None:
    body = json.loads(make()[0].to_json())
    body["parts"]["trace"]["path"] = body["parts"]["clip"]["path"].upper()
    with pytest.raises(ValidationError, match="share one file"):
        GoldenManifest.model_validate(body)


def test_golden_is_accepted_once(tmp_path: Path) -> None:
    row = {"digest": "a" * 64, "reason": "r", "author": "a", "accepted": "now"}
    with pytest.raises(ValidationError, match="twice"):
        AcceptedIndex.model_validate({"case": "c", "runner": "r", "goldens": [row, row]})
