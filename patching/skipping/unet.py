"""ComfyUI's UNet with its deep blocks left out: what the last of them gave in an earlier call takes their place.

DeepCache (Ma, Fang, Wang: DeepCache: Accelerating Diffusion Models for Free, CVPR 2024): where the picture is smallest,
features change little from step to step, so that only the blocks of its own size, and the next, run in each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

#: What of the host's ``UNetModel`` is used.
_PARTS = ("input_blocks", "middle_block", "output_blocks", "num_res_blocks")


def is_unet(model: Any) -> bool:
    """Whether a diffusion model has the blocks of Stable Diffusion 1.5 and SDXL."""
    return all(hasattr(model, name) for name in _PARTS) and len(model.input_blocks) == len(model.output_blocks)


def depth_of(unet: Any, layer: int, block: int) -> int:
    """The last of the input blocks that run in each call, counted as OneDiff's nodes do: ``layer`` is the level of the
    UNet, 0 for the one of the picture's own size, ``block`` the residual block in it. At least the deepest one of the
    output blocks is left out.
    """
    return min(sum(unet.num_res_blocks[:layer]) + block + 1, len(unet.output_blocks) - 2)


class Deep:
    """What the blocks below ``depth`` gave in a full call: the last result, and the shapes of the others."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, int], torch.Size] = {}
        self._result: torch.Tensor | None = None

    @property
    def is_known(self) -> bool:
        """Whether there was a full call: nodes such as EasyCache leave the whole model out of some steps."""
        return self._result is not None

    @contextmanager
    def kept(self, unet: Any, depth: int) -> Iterator[None]:
        """While this is entered, calls of the UNet are full, and what its deep blocks give is kept."""

        def blocks(kind: str, at: int, block: Any, is_last: bool) -> list[Any]:
            return [*block, self._keep((kind, at), is_last)]

        with _deep_ones_are(unet, depth, blocks):
            yield

    @contextmanager
    def left_out(self, unet: Any, depth: int) -> Iterator[None]:
        """While this is entered, the deep blocks do not run; what was kept takes the place of what they would give."""

        def blocks(kind: str, at: int, block: Any, is_last: bool) -> list[Any]:
            return [self._stand_in((kind, at), is_last)]

        with _deep_ones_are(unet, depth, blocks):
            yield

    def _keep(self, at: tuple[str, int], is_last: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        def keep(x: torch.Tensor) -> torch.Tensor:
            self._shapes[at] = x.shape
            if is_last:
                self._result = x.clone()  # patches of other nodes write into it
            return x

        return keep

    def _stand_in(self, at: tuple[str, int], is_last: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        def stand_in(x: torch.Tensor) -> torch.Tensor:
            # Zeros, rather than nothing: what a ControlNet gives for these blocks is added to them.
            return self._result.clone() if is_last and self._result is not None else x.new_zeros(self._shapes[at])

        return stand_in


@contextmanager
def _deep_ones_are(unet: Any, depth: int, blocks: Callable[[str, int, Any, bool], list[Any]]) -> Iterator[None]:
    """The host goes through its blocks, and through the layers of each, and calls them. The model's own lists stay as
    they are: those that stand before them are found first as long as they are there."""
    last = len(unet.output_blocks) - depth - 2
    inputs, outputs = enumerate(unet.input_blocks), enumerate(unet.output_blocks)
    instead: dict[str, Any] = {
        "input_blocks": [block if at <= depth else blocks("input", at, block, False) for at, block in inputs],
        "output_blocks": [block if at > last else blocks("output", at, block, at == last) for at, block in outputs],
    }
    if unet.middle_block is not None:
        instead["middle_block"] = blocks("middle", 0, unet.middle_block, False)
    before = {name: unet.__dict__[name] for name in instead if name in unet.__dict__}
    unet.__dict__.update(instead)
    try:
        yield
    finally:
        for name in instead:
            del unet.__dict__[name]
        unet.__dict__.update(before)
