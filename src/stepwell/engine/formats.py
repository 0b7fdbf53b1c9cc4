"""How a slot or a weight is stored, and the precision it is computed in."""

from __future__ import annotations

import torch

from stepwell.errors import UsageError

# name of a storage format -> dtype of the tensor that holds it
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def format_of(tensor: torch.Tensor, owner: str) -> str:
    """The name of the format of a parameter or gradient, or UsageError naming `owner`."""
    try:
        return NAMES[tensor.dtype]
    except KeyError:
        kind = "complex" if tensor.is_complex() else "integer"
        hint = (
            "pass torch.view_as_real(parameter) instead"
            if tensor.is_complex()
            else "only floating-point tensors are trained"
        )
        raise UsageError(
            f"{owner} is {kind} ({str(tensor.dtype).removeprefix('torch.')}), which is not supported; "
            f"allowed: {', '.join(str(d).removeprefix('torch.') for d in NAMES)}; {hint}"
        ) from None


def working_dtype(format_name: str) -> torch.dtype:
    """The precision of the arithmetic: float64 for float64 parameters, float32 for all others."""
    return torch.float64 if format_name == "fp64" else torch.float32
