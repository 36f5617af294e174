"""Recognise files that are not weights although their name promises them, and suggest the next command."""

from __future__ import annotations

from typing import NamedTuple

SNIFF = 512
"""Bytes at the start of a file that are examined."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class FileType(NamedTuple):
    """Type of a file that is not weights."""

    code: str
    """``lfs_pointer``, ``html_page``, ``pickle_file`` or ``other_file``."""
    text: str
    """Completes "FILE is ..."."""
    next_command: str


def sniff(data: bytes) -> FileType | None:
    """Return the type of a file by its first bytes; ``None`` if no known type matches."""
    text = data.lstrip()[:200].lower()
    if data.startswith(b"version https://git-lfs.github.com/spec/"):
        return FileType(
            "lfs_pointer",
            "a git-lfs pointer of a few lines: the weights themselves were not fetched",
            "git lfs pull, or hf download OWNER/NAME --local-dir FOLDER",
        )
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return FileType(
            "html_page",
            "a web page, not weights: a download was answered with a page (a login, an error, a link to a viewer)",
            "hf download OWNER/NAME --local-dir FOLDER, with a token where the repository is gated",
        )
    if text.startswith((b"entry not found", b"access to model", b"invalid username", b'{"error"')):
        return FileType(
            "html_page",
            "the text of a failed download, not weights",
            "hf download OWNER/NAME --local-dir FOLDER, with a token where the repository is gated",
        )
    # torch.save writes a zip archive (PK), or a bare pickle of protocol 2 to 5 before torch 1.6
    if data.startswith(b"PK\x03\x04") or (data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05"):
        return FileType(
            "pickle_file",
            "a PyTorch pickle under another name: loading one runs code, so it is not opened",
            "convert it to safetensors where it was made (safetensors.torch.save_file)",
        )
    if data.startswith(b"GGUF"):
        return FileType("other_file", "a GGUF file under another name", "rename it to .gguf")
    archives = {b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive"}
    for magic, name in archives.items():
        if data.startswith(magic):
            return FileType("other_file", f"{name}, not weights", "unpack it")
    if data and not data.strip(b"\0"):
        return FileType(
            "other_file", "nothing but zero bytes: space was reserved and never filled", "fetch the file again"
        )
    return None
