"""The number format that a model computes in: half precision only where the hardware has it, losses in float32."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def autocast_dtype(device: str | torch.device, precision: str = "auto") -> torch.dtype | None:
    """The half-precision type to compute in on `device`, or None for float32.

    "auto" takes bfloat16 where the hardware multiplies it natively, float16 on older CUDA devices (its narrow range
    then needs the gradient scaler), and float32 everywhere else.

    Raises:
        ValueError: an unknown precision, or "fp16" off CUDA.
    """
    device = torch.device(device)
    if precision == "auto":
        if device.type == "cuda":
            # is_bf16_supported() also answers yes where CUDA only emulates it; Ampere (8.0) is the first that does not.
            return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else None
    if precision not in DTYPES:
        raise ValueError(f'unknown precision {precision!r}: choose "auto", "fp32", "bf16" or "fp16"')
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(f'precision "fp16" needs a CUDA device, not {device.type!r}: use "bf16" or "auto"')
    return DTYPES[precision]


def prepare(
    model: nn.Module,
    device: str | torch.device | None,
    precision: str,
    place: Callable[[torch.device], torch.device] = lambda device: device,
) -> tuple[torch.device, torch.dtype | None]:
    """Move the model to the device, in channels-last layout, which is the fastest for convolutions.

    Args:
        model: changed in place.
        device: None: where the model is.
        precision: as for :func:`autocast_dtype`.
        place: takes the device to the one of its kind that is this process's own.

    Returns:
        The device, and the type to autocast to (None: float32).
    """
    if device is None:
        first = next(model.parameters(), None)
        device = first.device if first is not None else "cpu"
    device = place(torch.device(device))
    dtype = autocast_dtype(device, precision)
    model.to(device)
    model.to(memory_format=torch.channels_last)
    return device, dtype


def in_float32(outputs: Any) -> Tensor | tuple[Tensor, ...]:
    """Half-precision outputs in float32, in which a loss can add up a million pixels.

    Raises:
        ValueError: the outputs are neither a tensor nor a tuple of tensors.
    """
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, (tuple, list)) and all(isinstance(output, Tensor) for output in outputs):
        return tuple(output.float() for output in outputs)
    raise ValueError(
        f"the model returned a {type(outputs).__name__}, and a tensor of logits (or a tuple of tensors) is needed: "
        "wrap the model so that it returns its logits"
    )


def _cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively and right (AMX or the Arm extension).

    Emulated bfloat16 is several times slower than float32, so "torch accepts it" is the wrong question. AVX512-BF16
    without AMX does not count either: there, oneDNN 3.13 returns NaN for the weight gradient of a dilated convolution
    on channels-last maps whose channels are no multiple of 16.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        probe = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return bool(probe is not None and probe())
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    if probe is not None:
        return bool(probe())
    try:  # older torch has no such probe; Linux tells
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
