"""A narrower dtype of an operation is named; another way of computing is not."""

from __future__ import annotations

import pytest

from harness.judge.precision import lowered

GOLDEN = {
    "native_layer_norm:float32": 12, "add:float32": 30, "add:bfloat16": 10, "addmm:bfloat16": 40,
    "_scaled_dot_product_flash_attention_for_cpu:bfloat16": 12, "mul:float32": 20, "exp:float32": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (
            {"native_layer_norm:float32": 0, "native_layer_norm:bfloat16": 12},
            "norms (native_layer_norm): 12 calls compute in bfloat16",
        ),
        (
            {"add:float32": 24, "add:bfloat16": 16},
            "the residual stream (add): 6 calls compute in bfloat16, the golden's in float32",
        ),
        ({"_to_copy:float8_e4m3fn": 2}, "float8_e4m3fn, which nothing of the golden does"),
        ({"mul:float16": 4}, "float16"),
        ({"_scaled_dot_product_flash_attention_for_cpu:bfloat16": 0, "_softmax:bfloat16": 12}, "softmax"),
        ({"_scaled_dot_product_flash_attention_for_cpu:bfloat16": 0, "exp:bfloat16": 12}, "softmax"),
        ({"native_layer_norm:float32": 0, "mean:bfloat16": 24, "rsqrt:bfloat16": 12}, "norms"),
        ({"round:bfloat16": 24}, "coarser grid"),
    ],
)
def test_lower_precision_is_named(change: dict[str, int], word: str) -> None:
    run = {name: count for name, count in {**GOLDEN, **change}.items() if count}
    assert any(word in sentence for sentence in lowered(GOLDEN, run))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"addmm:bfloat16": 24},  # q, k and v as one product
        {"addmm:bfloat16": 44, "gelu:bfloat16": 2},  # a feed-forward in two chunks
        {"_scaled_dot_product_flash_attention_for_cpu:bfloat16": 0, "_softmax:float32": 12, "bmm:bfloat16": 24},
        {"native_layer_norm:float32": 0, "native_layer_norm:float64": 12},  # wider
        {"native_layer_norm:float32": 0, "mean:float32": 24, "rsqrt:float32": 12},  # a norm written out in float32
        {"add:bfloat16": 14},  # more of them, and none of the wide ones less
    ],
)
def test_another_way_of_computing_is_not(change: dict[str, int]) -> None:
    run = {name: count for name, count in {**GOLDEN, **change}.items() if count}
    assert list(lowered(GOLDEN, run)) == []


def test_what_an_older_golden_did_not_record_is_not_compared() -> None:
    assert list(lowered({}, GOLDEN)) == []
    assert list(lowered(GOLDEN, {})) == []
