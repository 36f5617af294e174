"""Write docs/formats.md from the registry: ``python -m benchmarks.pages.formats``; ``--check`` compares it only."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.formats.families import OTHER_MODELS
from harness.formats.families import PARTS as VARIANTS
from harness.formats.names import PREFIXES
from harness.formats.registry import built_in_formats, title_of

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
DIALECTS = (
    ("Diffusers", "`blocks.0.attn1.to_q`, `transformer/`, `transformer_2/`", "as they are"),
    ("Wan's own repository", "`blocks.0.self_attn.q`, `high_noise_model/`, `low_noise_model/`", "one table"),
    (
        "ComfyUI",
        "Wan's names, often behind a prefix; one or two files per folder, `scale_weight`, `comfy_quant`",
        "one table",
    ),
    (
        "LightX2V",
        "Wan's or Diffusers' names, `weight_scale` [N, 1], `weight_global_scale`, a file per block",
        "one table",
    ),
    ("City96 / QuantStack", "GGUF, Wan's names, `HighNoise/`, `LowNoise/`", "one table"),
    ("torchao", "`to_q._weight_qdata`, `to_q._weight_scale`, classes in the header", "by parts of a weight"),
    ("optimum-quanto", "`to_q.weight._data`, `to_q.weight._scale`", "by parts of a weight"),
    ("GPTQ, AWQ", "`qweight`, `qzeros`, `scales`", "beside the weight"),
    ("bitsandbytes", "`to_q.weight.absmax`, `quant_state`, `SCB`", "beside the weight"),
    ("compressed-tensors", "`weight_packed`, `weight_global_scale` (a reciprocal)", "as they are"),
    (
        "comfy-kitchen",
        "a `comfy_quant` tensor or `_quantization_metadata` per Linear; INT8 rotated in groups of columns (`convrot`)",
        "one table",
    ),
    (
        "msModelSlim",
        "`quant_model_description*.json`, `weight_offset`, `deq_scale`; Wan's names",
        "by the description",
    ),
    ("nunchaku", "`qweight`, `wscales`, `proj_down`", "named, not decoded"),
    (
        "ModelOpt in memory (Diffusers)",
        "`to_q.weight_quantizer._scale`, `_double_scale`, `_amax`",
        "by parts of a weight",
    ),
    ("packed QKV", "`attn1.to_qkv`, `self_attn.qkv`", "split into row ranges"),
    ("fbgemm, Quark, compressed-tensors", "`quant_method`, beside ModelOpt's name of a scale", "as they are"),
    ("peft", "`to_q.base_layer.weight`, `to_q.lora_A.default.weight`", "the weights; a fault all the same"),
)
PAIRS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("ModelOpt, SGLang's converter", ("nvfp4", "fp8", "mxfp8", "mxfp4", "int8", "int4"), "-"),
    ("compressed-tensors", ("nvfp4", "fp8", "mxfp8", "mxfp4", "int8", "int4"), "integers of 2 or 3 bits, MXFP6"),
    ("ComfyUI, comfy-kitchen, Kijai", ("fp8", "nvfp4", "mxfp8", "int8", "int4"), "tile-packed SVDQuant, W4A8"),
    ("Musubi Tuner, Diffusers' layerwise casts", ("fp8",), "-"),
    ("LightX2V", ("fp8", "int8", "nvfp4"), "MXFP6"),
    ("DeepSeek's blocks (float scales or powers of two), fbgemm", ("fp8",), "-"),
    ("AMD Quark", ("fp8", "mxfp4"), "other types of its `global_quant_config`"),
    ("torchao", ("fp8", "int8", "mxfp8", "nvfp4", "int4"), "Int4Tensor, UIntx"),
    ("bitsandbytes", ("nf4", "int8"), "a `quant_state` without type, shape or block size"),
    ("optimum-quanto", ("fp8", "int8", "int4"), "qint2; qint4 of a Linear without a bias"),
    ("msModelSlim", ("int8", "mxfp8"), "W4A4, W4A8, W4A16"),
    ("ggml", ("gguf",), "types that the `gguf` library does not decode"),
    ("GPTQ, AWQ", ("int4", "int8"), "2 and 3 bits"),
    ("nunchaku", (), "all: packed for one kernel"),
    ("HQQ, AQLM, QuIP#, EXL2, EXL3, VPTQ, SpQR", (), "all: named by their tensors"),
    ("any other tensors in place of a Linear's weight", (), "all: named by their tensors"),
)
"""Writer, its formats that are proven against a base, and its formats that are named and not decoded (`inconclusive`).
`benchmarks/corpus/` holds a right checkpoint of each proven pair."""
REFUSED = (
    ("PyTorch pickle (`.bin`, `.pt`, `.pth`, `.ckpt`)", "inconclusive", "never opened: loading one runs code"),
    ("git-lfs pointer", "fault", "the weights were not fetched"),
    ("web page, text of a failed download", "fault", "the download was answered with something else"),
    ("archive, file of zero bytes", "fault", "not weights"),
    (
        "download that was not finished (`.aria2`, `.part`, `.crdownload` ... beside it)",
        "fault",
        "the rest may be zeros",
    ),
    ("transformer with a LoRA that was not merged", "fault or warning", "fault if peft renamed the weights"),
    ("LoRA, VACE module alone, VAE, text or image encoder", "inconclusive", "named: it holds no transformer"),
)


def page() -> str:
    """Return the text of docs/formats.md."""
    lines = [
        "# Formats and dialects",
        "",
        "Written by `python -m benchmarks.pages.formats`; do not edit. A format defines how bytes become numbers,",
        "a dialect under which names a program stores them. Both are decided before anything is judged, and only the",
        "checks of that format run. `python -m benchmarks.fault_corpus` prints the faults found in each.",
        "",
        "## Formats",
        "",
        "| format | on disk | with a base | proven from cosine | other weights below | source |",
        "|---|---|---|---|---|---|",
    ]
    for item in built_in_formats().values():
        proof = "rows are decoded and compared" if item.proof == "base" else "named, not decoded: `inconclusive`"
        gate = (f"{item.gate.cosine:g}", f"{item.gate.unrelated:g}") if item.proof == "base" else ("-", "-")
        lines.append(f"| {item.title} | {item.stored} | {proof} | {gate[0]} | {gate[1]} | {item.source} |")
    lines += [
        "",
        "Without a base a quantized file is at best `inconclusive`: headers, names, key sets, scale values and the",
        "sanity of the other tensors are checked; gains, nibble order, stale and exchanged experts are not proven.",
        "",
        "The limits of each ggml type, and the values behind them: `python -m benchmarks.inspect_gates --gguf`.",
        "",
        "## Formats by writer",
        "",
        "| written by | proven against a base | recognised, named, not decoded |",
        "|---|---|---|",
        *(
            f"| {writer} | {', '.join(title_of(name) for name in proven) or '-'} | {not_} |"
            for writer, proven, not_ in PAIRS
        ),
        "",
        "## Dialects of names",
        "",
        "| dialect | recognised by | translated |",
        "|---|---|---|",
        *(f"| {name} | {marks} | {how} |" for name, marks, how in DIALECTS),
        "",
        "Prefixes that are taken away: "
        + ", ".join(f"`{prefix}` ({writer})" for prefix, writer in PREFIXES.items())
        + ". Another",
        "prefix in front of every block is named in a warning and taken away as well.",
        "",
        "## Variants of Wan, and other models",
        "",
        f"Further tensors of {', '.join(title for _, title in VARIANTS)} are named. With a base that has them",
        "they are compared; with a base that lacks them they are a warning and are not. Files without a single tensor",
        f"of a Wan transformer are never clean: those of {', '.join(title for _, title in OTHER_MODELS)} are a",
        "fault with that name, any others `inconclusive`.",
        "",
        "## Files that are no transformer's weights",
        "",
        "| file | outcome | why |",
        "|---|---|---|",
        *(f"| {name} | {outcome} | {why} |" for name, outcome, why in REFUSED),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Write the page, or compare it with the file (``--check``). Return 1 if the file is stale."""
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
