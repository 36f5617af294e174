"""A hub of one process that serves A14B-shaped checkpoints whose bytes are computed when they are asked for.

    python -m benchmarks.corpus.a14b_server

Four repositories: ``corpus/base`` (float32, as Wan2.2 is published), ``corpus/nvfp4``, ``corpus/nvfp4-swapped``
(experts exchanged) and ``corpus/fp8`` (one scale per tensor). The answers follow the public hub API as
``huggingface_hub`` calls it: revision, tree, HEAD and ranged GET of ``resolve``.

Weights are windows into one fixed table of heavy-tailed values; the window is a hash of tensor and row, so any row of
any tensor can be computed alone. NVFP4 rows are quantized when asked for, the ModelOpt way, from values in BF16.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

COMMIT = "1" * 40
WIDTH, FEED, LAYERS = 5120, 13824, 40
KEPT = {0, 1, 2, 37, 38, 39}
GLOBAL = np.float32(0.5 / (6 * 448))
FP8_SCALE = np.float32(0.5 / 448)
ITEM = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1}
ORDER = {"F32": 0, "BF16": 1, "F8_E4M3": 2, "U8": 3}
TABLE_SIZE = 1 << 22
_E4M3 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
_BOUNDS = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], dtype=np.float32)


@lru_cache(maxsize=1)
def table() -> NDArray[np.float32]:
    """Heavy-tailed values in [-0.5, 0.5]: normal, with a scale that wanders from block to block."""
    random = np.random.default_rng(7)
    values = random.standard_normal(TABLE_SIZE).astype(np.float32)
    scale = np.exp(0.5 * np.repeat(random.standard_normal(TABLE_SIZE // 16), 16)).astype(np.float32)
    return np.asarray(np.clip(values * scale * 0.02, -0.5, 0.5), dtype=np.float32)


def linears() -> list[tuple[str, int, int]]:
    """The 400 block Linears: name, N, K."""
    linears = []
    for block in range(LAYERS):
        for attention in ("attn1", "attn2"):
            linears += [
                (f"blocks.{block}.{attention}.{part}", WIDTH, WIDTH) for part in ("to_q", "to_k", "to_v", "to_out.0")
            ]
        linears += [(f"blocks.{block}.ffn.net.0.proj", FEED, WIDTH), (f"blocks.{block}.ffn.net.2", WIDTH, FEED)]
    return linears


def tensors(kind: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to dtype and shape of one expert: 1095 tensors of the base. ``kind`` is the name of a repository."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "scale_shift_table": ("F32", (1, 2, WIDTH)),
        "patch_embedding.weight": ("BF16", (WIDTH, 16, 1, 2, 2)),
        "patch_embedding.bias": ("BF16", (WIDTH,)),
        "condition_embedder.time_embedder.linear_1.weight": ("BF16", (WIDTH, 256)),
        "condition_embedder.time_embedder.linear_1.bias": ("BF16", (WIDTH,)),
        "condition_embedder.time_embedder.linear_2.weight": ("BF16", (WIDTH, WIDTH)),
        "condition_embedder.time_embedder.linear_2.bias": ("BF16", (WIDTH,)),
        "condition_embedder.time_proj.weight": ("BF16", (6 * WIDTH, WIDTH)),
        "condition_embedder.time_proj.bias": ("BF16", (6 * WIDTH,)),
        "condition_embedder.text_embedder.linear_1.weight": ("BF16", (WIDTH, 4096)),
        "condition_embedder.text_embedder.linear_1.bias": ("BF16", (WIDTH,)),
        "condition_embedder.text_embedder.linear_2.weight": ("BF16", (WIDTH, WIDTH)),
        "condition_embedder.text_embedder.linear_2.bias": ("BF16", (WIDTH,)),
        "proj_out.weight": ("BF16", (64, WIDTH)),
        "proj_out.bias": ("BF16", (64,)),
    }
    for block in range(LAYERS):
        shapes[f"blocks.{block}.scale_shift_table"] = ("F32", (1, 6, WIDTH))
        shapes[f"blocks.{block}.norm2.weight"] = shapes[f"blocks.{block}.norm2.bias"] = ("F32", (WIDTH,))
        for attention in ("attn1", "attn2"):
            for norm in ("norm_q", "norm_k"):
                shapes[f"blocks.{block}.{attention}.{norm}.weight"] = ("BF16", (WIDTH,))
    for name, rows, columns in linears():
        shapes[f"{name}.bias"] = ("BF16", (rows,))
        kept = kind == "base" or int(name.split(".")[1]) in KEPT
        if not kept and kind == "fp8":
            shapes[f"{name}.weight"] = ("F8_E4M3", (rows, columns))
            shapes[f"{name}.weight_scale"] = shapes[f"{name}.input_scale"] = ("F32", ())
        elif not kept:
            shapes[f"{name}.weight"] = ("U8", (rows, columns // 2))
            shapes[f"{name}.weight_scale"] = ("F8_E4M3", (rows, columns // 16))
            shapes[f"{name}.weight_scale_2"] = shapes[f"{name}.input_scale"] = ("F32", ())
        else:
            shapes[f"{name}.weight"] = ("BF16", (rows, columns))
    return {name: ("F32", shape) for name, (_, shape) in shapes.items()} if kind == "base" else shapes


class File:
    """One shard: its header bytes, and where each tensor lies."""

    def __init__(self, entries: dict[str, tuple[str, tuple[int, ...]]], expert: str) -> None:
        self.expert = expert
        offset, body = 0, {}
        self.places: list[tuple[int, int, str, str, tuple[int, ...]]] = []
        for name in sorted(entries, key=lambda item: (ORDER[entries[item][0]], item)):
            dtype, shape = entries[name]
            size = int(np.prod(shape, dtype=np.int64)) * ITEM[dtype]
            body[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
            self.places.append((offset, offset + size, name, dtype, shape))
            offset += size
        raw = json.dumps(body, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        self.header = len(raw).to_bytes(8, "little") + raw
        self.size = len(self.header) + offset
        self.starts = np.array([place[0] for place in self.places])

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the file."""
        end, parts = start + length, []
        if start < len(self.header):
            parts.append(self.header[start:end])
        low, high = max(start - len(self.header), 0), end - len(self.header)
        index = int(np.searchsorted(self.starts, low, side="right")) - 1
        while low < high and index < len(self.places):
            first, last, name, dtype, shape = self.places[index]
            stop = min(high, last)
            if stop > low:
                parts.append(tensor_bytes(self.expert, name, dtype, shape, low - first, stop - first))
            low, index = max(low, stop), index + 1
        return b"".join(parts)


def row_values(expert: str, name: str, row: int, columns: int) -> NDArray[np.float32]:
    """One row of a weight of the base."""
    start = zlib.crc32(f"{expert}/{name}/{row}".encode()) % (TABLE_SIZE - columns - 16) // 16 * 16
    return table()[start : start + columns]


def in_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a model loaded in BF16 makes of them."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def tensor_bytes(expert: str, name: str, dtype: str, shape: tuple[int, ...], start: int, stop: int) -> bytes:
    """Bytes ``start:stop`` of one tensor."""
    if name.endswith("weight_scale_2"):
        return GLOBAL.tobytes()[start:stop]
    if name.endswith("weight_scale") and shape == ():
        return FP8_SCALE.tobytes()[start:stop]
    if name.endswith("input_scale"):
        return np.float32(0.01).tobytes()[start:stop]
    rows, width = (shape[0], int(np.prod(shape[1:]))) if len(shape) > 1 else (1, shape[0])
    line = width * ITEM[dtype]
    first, last = start // line, -(-stop // line)
    data = b"".join(_row(expert, name, dtype, row, width) for row in range(first, min(last, rows)))
    return data[start - first * line : stop - first * line]


def _row(expert: str, name: str, dtype: str, row: int, width: int) -> bytes:
    if dtype == "U8":
        weight = in_bf16(row_values(expert, name, row, width * 2))
        codes = _codes(weight, _scales(weight))
        return ((codes[1::2] << 4) | codes[0::2]).tobytes()
    if dtype == "F8_E4M3" and not name.endswith("_scale"):
        steps = in_bf16(row_values(expert, name, row, width)) / FP8_SCALE
        return steps.astype(ml_dtypes.float8_e4m3fn).tobytes()
    if dtype == "F8_E4M3":
        weight = in_bf16(row_values(expert, name.removesuffix("_scale"), row, width * 16))
        return _scales(weight).tobytes()
    values = row_values(expert, name, row, width)
    return values.tobytes() if dtype == "F32" else values.astype(ml_dtypes.bfloat16).tobytes()


def _scales(weight: NDArray[np.float32]) -> NDArray[np.uint8]:
    amax = np.abs(weight.reshape(-1, 16)).max(axis=1)
    return np.asarray(np.clip(amax / (6 * GLOBAL), 2**-9, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8))


def _codes(weight: NDArray[np.float32], scales: NDArray[np.uint8]) -> NDArray[np.uint8]:
    values = weight.reshape(-1, 16) / (_E4M3[scales] * GLOBAL)[:, None]
    size = np.abs(values)
    code = np.searchsorted(_BOUNDS, size, side="left") + np.isin(size, _BOUNDS[1::2])
    signed = code.astype(np.uint8) + ((values < 0).astype(np.uint8) << 3)
    return np.asarray(signed.reshape(-1), dtype=np.uint8)


def quantization(bits: int) -> dict[str, Any]:
    """What ModelOpt writes into config.json, for 4 or 8 bits."""
    group = {"dynamic": False, "num_bits": bits, "type": "float"} | ({"group_size": 16} if bits == 4 else {})
    kept = [*(f"blocks.{block}.*" for block in sorted(KEPT)), "condition_embedder*", "patch_embedding", "proj_out"]
    return {
        "config_groups": {"group_0": {"weights": group, "input_activations": group, "targets": ["Linear"]}},
        "ignore": kept,
        "quant_algo": "NVFP4" if bits == 4 else "FP8",
        "producer": {"name": "modelopt", "version": "0.47.0"},
        "quant_method": "modelopt",
    }


def repository(kind: str) -> dict[str, bytes | File]:
    """All files of one repository."""
    config: dict[str, Any] = {
        "_class_name": "WanTransformer3DModel",
        "num_layers": LAYERS,
        "num_attention_heads": 40,
        "attention_head_dim": 128,
        "ffn_dim": FEED,
    }
    if kind != "base":
        config["quantization_config"] = quantization(8 if kind == "fp8" else 4)
    index = {
        "_class_name": "WanPipeline", "boundary_ratio": 0.875,
        "transformer": ["diffusers", "WanTransformer3DModel"], "transformer_2": ["diffusers", "WanTransformer3DModel"],
    }  # fmt: skip
    files: dict[str, bytes | File] = {"model_index.json": json.dumps(index).encode()}
    entries = tensors(kind)
    parts = 12 if kind == "base" else 3
    names = sorted(entries)
    for expert in ("transformer", "transformer_2"):
        values = (
            {"transformer": "transformer_2", "transformer_2": "transformer"}[expert]
            if kind.endswith("swapped")
            else expert
        )
        weight_map: dict[str, str] = {}
        for part in range(parts):
            name = f"diffusion_pytorch_model-{part + 1:05d}-of-{parts:05d}.safetensors"
            names_of_part = names[part * len(names) // parts : (part + 1) * len(names) // parts]
            weight_map |= dict.fromkeys(names_of_part, name)
            files[f"{expert}/{name}"] = File({key: entries[key] for key in names_of_part}, values)
        files[f"{expert}/diffusion_pytorch_model.safetensors.index.json"] = json.dumps(
            {"weight_map": weight_map}
        ).encode()
        files[f"{expert}/config.json"] = json.dumps(config).encode()
    return files


class Handler(BaseHTTPRequestHandler):
    """The four calls that ``huggingface_hub`` makes."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, bytes | File]] = {}
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Nothing: a thousand lines a run help nobody."""

    def do_HEAD(self) -> None:
        """File metadata."""
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        """Repository information, file tree, and file bytes."""
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/corpus/([^/]+)(?:/revision/[^/]+)?", path):
            return self._json({"id": f"corpus/{match[1]}", "sha": COMMIT, "siblings": [], "private": False})
        if match := re.fullmatch(r"/api/models/corpus/([^/]+)/tree/[^/]+/?", path):
            return self._json([_tree_entry(name, item) for name, item in self.repositories[match[1]].items()])
        match = re.fullmatch(r"/corpus/([^/]+)/resolve/[^/]+/(.+)", path)
        item = self.repositories.get(match[1], {}).get(match[2]) if match else None
        if item is None:
            self.send_error(404)
            return None
        size = item.size if isinstance(item, File) else len(item)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(wanted[1]), min(int(wanted[2]) + 1, size)) if wanted else (0, size)
        data = b""
        if body:
            data = item.read(start, stop - start) if isinstance(item, File) else item[start:stop]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", COMMIT)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        self.wfile.write(data)
        return None

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _tree_entry(name: str, item: bytes | File) -> dict[str, Any]:
    size = item.size if isinstance(item, File) else len(item)
    entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": "2" * 40}
    if isinstance(item, File):
        entry["lfs"] = {"oid": f"{zlib.crc32(name.encode()):064x}", "size": size, "pointerSize": 135}
    return entry


class Server(ThreadingHTTPServer):
    """Takes many connections at once."""

    request_queue_size = 128
    daemon_threads = True


def main() -> None:
    """Serve on a free port of the loopback; its number is the first line printed."""
    table()
    Handler.repositories = {kind: repository(kind) for kind in ("base", "nvfp4", "nvfp4-swapped", "fp8")}
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
