"""Tensors in both libraries: one memory, two handles."""

from __future__ import annotations

from typing import Any

import oneflow as flow
import torch

DTYPES: dict[torch.dtype, Any] = {
    torch.float16: flow.float16,
    torch.bfloat16: flow.bfloat16,
    torch.float32: flow.float32,
    torch.float64: flow.float64,
    torch.int8: flow.int8,
    torch.uint8: flow.uint8,
    torch.int32: flow.int32,
    torch.int64: flow.int64,
    torch.bool: flow.bool,
}


def to_oneflow(tensor: torch.Tensor) -> Any:
    """The same memory as a OneFlow tensor. Transposed ones are copied, and bool, which neither can hand over."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bool:
        return flow.utils.tensor.from_torch(tensor.to(torch.uint8)).to(flow.bool)
    return flow.utils.tensor.from_torch(tensor.contiguous())


def to_torch(tensor: Any, strides: tuple[int, ...]) -> torch.Tensor:
    """The same memory as a torch tensor; copied where ``strides`` asks for another layout, or it is bool."""
    if tensor.dtype == flow.bool:
        result = flow.utils.tensor.to_torch(tensor.to(flow.uint8)).to(torch.bool)
    else:
        result = flow.utils.tensor.to_torch(tensor)
    if result.numel() == 0 or _same_layout(result, strides):
        return result
    return torch.empty_strided(result.shape, strides, dtype=result.dtype, device=result.device).copy_(result)


def _same_layout(tensor: torch.Tensor, strides: tuple[int, ...]) -> bool:
    """Dimensions of size 1 have any stride."""
    return all(a == b or size == 1 for a, b, size in zip(tensor.stride(), strides, tensor.shape, strict=True))


def wait(device: torch.device) -> None:
    """OneFlow runs on threads and streams of its own: until this returns, shared memory may still be in use."""
    flow._oneflow_internal.eager.Sync()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
