"""An offline tokenizer of the class that Wan uses (T5, unigram), built from a word list instead of a download."""

from __future__ import annotations

import string
from typing import Any, Final

from tiny.modules import Tokenizer
from tiny.spec import COLOURS, DIRECTIONS, SHAPES

_GRAMMAR: Final = ("a", "an", "moving", "on", "background", "the", "and")
_SPACE: Final = "▁"
_WORD_SCORE, _SPACE_SCORE, _LETTER_SCORE = -1.0, -5.0, -10.0


def pieces() -> list[tuple[str, float]]:
    """Unigram pieces with log scores: the specials, whole words of the captions, then single printable characters.

    Single characters are the fallback: any ASCII prompt gets tokens of its own instead of one "unknown".
    """
    words = [*_GRAMMAR, *COLOURS, *SHAPES, *DIRECTIONS]
    letters = string.ascii_letters + string.digits + string.punctuation
    return [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((_SPACE + word, _WORD_SCORE) for word in words),
        (_SPACE, _SPACE_SCORE),
        *((letter, _LETTER_SCORE) for letter in letters),
    ]


def build_tokenizer() -> Tokenizer:
    """The tokenizer; deterministic, no network, no files."""
    import transformers

    tokenizer_class: Any = transformers.T5TokenizerFast  # type: ignore[attr-defined]
    return tokenizer_class(vocab=pieces(), extra_ids=0)
