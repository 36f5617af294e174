"""Reading files that a person wrote, with errors for a person."""

from __future__ import annotations

from pathlib import Path

from harness.definitions.yaml_tree import MAX_BYTES, Problem, YamlError


def read_text(path: Path) -> str:
    """Text of a file, never more than ``MAX_BYTES``.

    Raises:
        YamlError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise YamlError([Problem(1, f"cannot be read: {error.strerror or error}")]) from None
    if len(data) > MAX_BYTES:
        raise YamlError([Problem(1, f"larger than {MAX_BYTES // 2**20} MiB; split the file")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError([Problem(line, f"not UTF-8: byte 0x{data[error.start]:02x}")]) from None


def shown(path: Path, root: Path) -> Path:
    """``path`` relative to ``root`` where it lies inside, as it is shown and recorded."""
    whole = path if path.is_absolute() else root / path
    return whole.relative_to(root) if whole.is_relative_to(root) else path
