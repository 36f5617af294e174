"""Formats of other distributions: a broken registration is an error with its package, and a proof depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import InvalidCaseError
from harness.formats import registry
from harness.formats.registry import built_in_formats
from harness.formats.spec import Format
from harness.inspector import proofs


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Return a function that installs a distribution with one format: its name, and the Python text of its value."""

    def clear() -> None:
        registry._points.cache_clear()
        registry.registered_formats.cache_clear()
        proofs.rules_digest.cache_clear()

    def make(name: str, value: str) -> None:
        info = tmp_path / "brings_formats-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brings-formats\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = brings_formats:VALUE\n")
        (tmp_path / "brings_formats.py").write_text(f"{value}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(__import__("sys").modules, "brings_formats", raising=False)
        clear()

    yield make
    clear()


def written(changes: str) -> str:
    """The Python text of a format that only lacks or changes the named members."""
    return (
        "from dataclasses import replace\nfrom harness.formats.registry import built_in_formats\n"
        f"VALUE = replace(built_in_formats()['unknown'], {changes})"
    )


def test_a_format_of_another_distribution_is_known(install: Callable[[str, str], None]) -> None:
    install("mine", written("name='mine', title='MINE', recognise=lambda *_: None"))
    assert registry.known_formats()["mine"].title == "MINE"
    assert registry.title_of("mine") == "MINE"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mine", "1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("mine", "VALUE = 3", "no Format of that name"),
        ("other", written("name='mine', recognise=lambda *_: None"), "no Format of that name"),
        ("fp8", written("name='fp8', recognise=lambda *_: None"), "taken"),
        ("bf16", written("name='bf16', recognise=lambda *_: None"), "taken"),
        ("mine", written("name='mine'"), "lacks recognise or decode"),
        ("mine", written("name='mine', proof='base', recognise=lambda *_: None"), "lacks recognise or decode"),
    ],
)
def test_a_broken_registration_names_its_package(
    install: Callable[[str, str], None], name: str, value: str, message: str
) -> None:
    install(name, value)
    with pytest.raises(InvalidCaseError, match=f"brings-formats.*{message}"):
        registry.known_formats()


def test_what_was_proven_without_a_format_is_proven_again(install: Callable[[str, str], None]) -> None:
    before = proofs.rules_digest()
    install("mine", written("name='mine', recognise=lambda *_: None"))
    first = proofs.rules_digest()
    install("mine", written("name='mine', recognise=lambda *_: (1, 1)"))
    assert len({before, first, proofs.rules_digest()}) == 3


def test_the_built_in_formats_have_no_functions_of_their_own() -> None:
    assert all(isinstance(form, Format) and form.recognise is None for form in built_in_formats().values())
