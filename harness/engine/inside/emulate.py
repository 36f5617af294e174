"""Compute the GPU operators of SGLang in float32: on a CPU, and on a GPU if a case requests it.

SGLang's own configuration, loading, preparation of weights, quantization methods, layers, stages, scheduler and VAE
run unchanged. Replaced are the products of FP8 and FP4 Linears, the two functions that prepare operands for them, and
operators of ``sgl_kernel`` that no CPU wheel on PyPI holds. ``emulated`` lists each of them and is part of the record.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import types
from typing import Any

import torch

FP4_VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""Value of each E2M1 code (OCP Microscaling Formats 1.0, table 5)."""
FP4_BOUNDS = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
"""Midpoints between the magnitudes; a value at a midpoint is rounded to the even code."""
FP4_LARGEST, FP8_LARGEST = 6.0, 448.0
BLOCK = 16
"""Columns that share one block scale in NVFP4."""
FP4_PRODUCT, FP8_PRODUCT = "emulated NVFP4 product (float32)", "emulated FP8 product (float32)"
emulated: list[str] = []
"""One sentence per replaced operator."""
keep: list[Any] = []
last: list[str] = []
"""Name of the last computed product; it becomes the receipt of the Linear that called it."""


class DeclareTorchvision:
    """Declare ``torchvision::nms`` and ``qnms`` before torchvision registers their meta functions.

    A CUDA build of torchvision beside a CPU build of torch provides neither operator, and its import fails then.
    """

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        """Find no module. Declare the operators when torchvision is about to be imported."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            make: Any = torch.library.Library
            library = make("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            keep.append(library)


def quantize_fp4(x: torch.Tensor, scale_inverse: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize activations as NVFP4 kernels do.

    Args:
        x: [M, K].
        scale_inverse: 1 / input scale, the second-level scale of the activations.

    Returns:
        Packed codes uint8 [M, K / 2], the even column in the low nibble, and block scales E4M3 as uint8 [M, K / 16] in
        rows, the layout that ``multiply_fp4``, their only reader, expects.
    """
    blocks = (x.float() * scale_inverse.float()).reshape(x.shape[0], -1, BLOCK)
    scales = (blocks.abs().amax(-1) / FP4_LARGEST).clamp(max=FP8_LARGEST).to(torch.float8_e4m3fn)
    divisor = scales.float().unsqueeze(-1)
    values = torch.where(divisor > 0, blocks / divisor, torch.zeros_like(blocks)).reshape(x.shape[0], -1)
    size = values.abs()
    bounds = FP4_BOUNDS.to(x.device)
    codes = torch.bucketize(size, bounds, right=True)  # round a midpoint up ...
    middle = (size == bounds[(codes - 1).clamp(min=0)]) & (codes % 2 == 1)
    codes = torch.where(middle, codes - 1, codes)  # ... unless the upper code is odd: then down to the even code
    codes = codes.to(torch.uint8) | (values.signbit().to(torch.uint8) << 3)
    return codes[:, 0::2] | (codes[:, 1::2] << 4), scales.view(torch.uint8)


def unpack_fp4(packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Convert packed codes [R, C / 2] and E4M3 block scales [>= R, >= C / 16] in rows to values [R, C], float32."""
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    table = FP4_VALUES.to(packed.device)
    codes = torch.stack([table[(packed & 15).long()], table[(packed >> 4).long()]], -1)
    used = scales[:rows, : columns // BLOCK].float()
    return codes.reshape(rows, columns) * used.repeat_interleave(BLOCK, 1)


def multiply_fp4(
    x: torch.Tensor,
    weight_t: torch.Tensor,
    x_scale: torch.Tensor,
    weight_scale_t: torch.Tensor,
    alpha: torch.Tensor,
    dtype: torch.dtype,
    **_: Any,
) -> torch.Tensor:
    """Compute the product of an NVFP4 Linear, with the arguments of ``flashinfer.mm_fp4``: [M, N] in ``dtype``.

    A dynamic shape of weights may be padded by rows (N) and columns; block scales of both operands lie in rows.
    """
    last[:] = [FP4_PRODUCT]
    packed, scales = weight_t.T, weight_scale_t.T
    columns = min(x.shape[1], packed.shape[1])
    product = unpack_fp4(x[:, :columns], x_scale) @ unpack_fp4(packed[:, :columns], scales).T
    return (product * alpha.float()).to(dtype)


def multiply_fp8(
    input: torch.Tensor,  # noqa: A002 - the name of the runtime's parameter
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    input_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Compute the product of an FP8 Linear: [..., N] in the input's dtype. Arguments as SGLang's ``apply_fp8_linear``.

    Args:
        input: [..., K]; quantized with ``input_scale``, or with one scale per row if there is none.
        weight: E4M3 [K, N].
        weight_scale: one value, or [N] or [N, 1].
        input_scale: one value.
        bias: [N].
    """
    last[:] = [FP8_PRODUCT]
    x = input.float()
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / FP8_LARGEST if input_scale is None else input_scale
    codes = (x / scale.float()).clamp(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn)
    product = (codes.float() @ weight.float()) * scale.float() * weight_scale.float().reshape(1, -1)
    return (product if bias is None else product + bias.float()).to(input.dtype)


def cast_fp8(x: torch.Tensor, scale: Any = None, *_: Any, **__: Any) -> tuple[torch.Tensor, Any]:
    """Quantize as ``scaled_fp8_quant`` with a given scale. Return E4M3 codes and the same scale."""
    return (x.float() / scale).clamp(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn), scale


def _normalized(x: torch.Tensor, weight: Any, bias: Any, kind: str, eps: float) -> torch.Tensor:
    """Return LayerNorm (``layer``) or RMSNorm (``rms``) over the last dimension, in float32."""
    values = x.float()
    if kind == "layer":
        values = values - values.mean(-1, keepdim=True)
    values = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
    values = values if weight is None else values * weight.float()
    return values if bias is None else values + bias.float()


def norm_scale_shift(
    x: torch.Tensor, weight: Any, bias: Any, scale: torch.Tensor, shift: torch.Tensor, norm_type: str, eps: float
) -> torch.Tensor:
    """Compute ``norm(x) * (1 + scale) + shift`` in float32, in the dtype of ``x``; all are [B, L, C]."""
    return (_normalized(x, weight, bias, norm_type, eps) * (1 + scale.float()) + shift.float()).to(x.dtype)


def residual_norm_scale_shift(
    residual: torch.Tensor,
    x: torch.Tensor,
    gate: Any,
    weight: Any,
    bias: Any,
    scale: torch.Tensor,
    shift: torch.Tensor,
    norm_type: str,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ``r = residual + x * gate`` and ``y = norm(r) * (1 + scale) + shift``; return ``y, r``."""
    total = residual.float() + (x.float() if gate is None else x.float() * gate.float())
    modulated = _normalized(total, weight, bias, norm_type, eps) * (1 + scale.float()) + shift.float()
    return modulated.to(x.dtype), total.to(residual.dtype)


def scale_shift(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, constant: float) -> torch.Tensor:
    """Compute ``x * (constant + scale) + shift`` in float32, in the dtype of ``x``."""
    return (x.float() * (constant + scale.float()) + shift.float()).to(x.dtype)


_OPERANDS = "Tensor? weight, Tensor? bias, Tensor scale, Tensor shift, str norm_type, float eps"
MODULATION = (
    ("fused_norm_scale_shift_cpu", f"(Tensor x, {_OPERANDS}) -> Tensor", norm_scale_shift),
    (
        "fused_scale_residual_norm_scale_shift_cpu",
        f"(Tensor residual, Tensor x, Tensor? gate, {_OPERANDS}) -> (Tensor, Tensor)",
        residual_norm_scale_shift,
    ),
    ("fused_scale_shift_cpu", "(Tensor x, Tensor scale, Tensor shift, float constant) -> Tensor", scale_shift),
)
"""Name, schema and replacement of the ``sgl_kernel`` operators that SGLang 0.5.21 and later call on a CPU."""


def _declare_modulation() -> None:
    make: Any = torch.library.Library
    library = make("sgl_kernel", "FRAGMENT")
    for name, schema, function in MODULATION:
        library.define(f"{name}{schema}")
        library.impl(name, function, "CompositeExplicitAutograd")
    keep.append(library)
    sys.modules.setdefault("sgl_kernel", types.ModuleType("sgl_kernel"))
    emulated.append(f"sgl_kernel: {', '.join(name for name, _, _ in MODULATION)} in float32")


def before_import() -> None:
    """Prepare the interpreter for importing SGLang on a machine without a GPU."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError):  # this build of torchvision does not fit the installed torch
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        finder: Any = DeclareTorchvision()
        sys.meta_path.insert(0, finder)
        emulated.append("torchvision::nms and qnms are declared, not implemented: its build does not fit this torch")


def _modules(part: str) -> list[Any]:
    return [module for name, module in list(sys.modules.items()) if part in name and module is not None]


def replace_products() -> None:
    """Replace the products of quantized Linears in every imported module of SGLang that names them."""
    from sglang.multimodal_gen.runtime.layers.quantization import modelopt_quant

    modelopt_quant._get_fp4_gemm_op = lambda: (multiply_fp4, "trtllm")
    modelopt_quant._get_fp4_quantize_op = lambda: quantize_fp4
    modelopt_quant._require_flashinfer = lambda: types.SimpleNamespace(
        shuffle_matrix_a=lambda x, _tile: x, shuffle_matrix_sf_a=lambda x, _tile, *_, **__: x
    )
    emulated.append(
        "FP4: quantization and product in float32, operands in rows as the trtllm preparation leaves them before its "
        "shuffles"
    )
    for module in _modules("quantization"):
        if hasattr(module, "apply_fp8_linear"):
            module.apply_fp8_linear = multiply_fp8
        if hasattr(module, "cutlass_fp8_supported") and "multimodal_gen" in module.__name__:
            module.cutlass_fp8_supported = lambda: True
    modelopt_quant.requantize_with_max_scale.__globals__["scaled_fp8_quant"] = cast_fp8
    emulated.append("FP8: product (apply_fp8_linear) and cast (scaled_fp8_quant) in float32")


def replace_gpu_calls() -> None:
    """Replace the remaining GPU calls of SGLang on a machine without a GPU."""
    tensor: Any = torch.Tensor
    tensor.cuda = lambda self, *_, **__: self
    emulated.append("torch.Tensor.cuda returns the tensor where it is")
    version = tuple(int(part) for part in importlib.metadata.version("sglang").split(".")[:3] if part.isdigit())
    if version >= (0, 5, 21) and importlib.util.find_spec("sgl_kernel") is None:
        _declare_modulation()


def name_fp4_product() -> None:
    """Record the name of the FP4 product when a GPU calls it. The product itself runs unchanged.

    Products of flashinfer bypass torch's dispatcher, through which all other products are observed.
    """
    from sglang.multimodal_gen.runtime.layers.quantization import modelopt_quant

    original = modelopt_quant._get_fp4_gemm_op
    wrapped: dict[int, Any] = {}

    def named() -> tuple[Any, Any]:
        function, backend = original()
        if function is None:
            return function, backend
        if id(function) not in wrapped:
            label = f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', 'product')}"

            def call(*arguments: Any, **options: Any) -> Any:
                last[:] = [f"{label} ({backend})"]
                return function(*arguments, **options)

            wrapped[id(function)] = call
        return wrapped[id(function)], backend

    modelopt_quant._get_fp4_gemm_op = named
