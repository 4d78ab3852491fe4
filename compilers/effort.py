"""What the node's ``effort`` means to Inductor, per type of device.

=========  ======  =======================================================================================
effort     device  settings (names of torch._inductor.config)
=========  ======  =======================================================================================
both       all     Inductor's own, but for those below; no CUDA graphs, because blocks hand tensors on to
                   each other
both       cpu     ``layout_optimization`` off: with it every call of a convolution puts its weights into
                   channels-last order anew
max speed  cuda    ``max_autotune``: each matrix product is timed here as cuBLAS and as Triton kernels
                   ``coordinate_descent_tuning``: so are the tilings of the other kernels
max speed  cpu     as fast start, see below
=========  ======  =======================================================================================

Measured, SD 1.5 at full size, 32×32 latents, 2 cores, float32, each block beside its uncompiled run: with
``layout_optimization`` a compiled residual block ran 1.0 times as fast at 32×32, 0.8 at 16×16, 0.55 at 8×8 and 0.5 at
4×4, where its weights outweigh its activations; without, 0.98 to 1.01 everywhere. Compiling the model took 38 s with it
and 30 s without.

What ``max speed`` adds times variants of a kernel on the user's own machine and keeps the fastest, so that each is kept
only where it helps; the whole is held against uncompiled steps as ever. What was left out, and why:

- ``freezing`` copies weights into the graph: they would be there twice, and a LoRA would compile anew.
- ``max_autotune`` on a CPU: without frozen weights it may choose only between two calls of the same library
  (``addmm``, ``bias_addmm``).
- ``coordinate_descent_tuning`` on a CPU: it concerns Triton's kernels, and the code is the same.
- Less optimising by the C++ compiler: with -O1 compiling took 29 s instead of 30.
- Weights in channels-last order: not tried; a LoRA's weights come in plain order, and a graph holds for one order.
"""

from __future__ import annotations

from typing import Any

ALWAYS: dict[str, dict[str, Any]] = {"cpu": {"layout_optimization": False}}
MAX_SPEED: dict[str, dict[str, Any]] = {"cuda": {"max_autotune": True, "coordinate_descent_tuning": True}}

#: How each setting of ``MAX_SPEED`` is told to people.
WORDS = {
    "max_autotune": "matrix products are timed in several variants",
    "coordinate_descent_tuning": "tilings of the other kernels are timed",
}


def inductor_config(effort: str, device: str) -> dict[str, Any]:
    """Inductor's settings. ``device`` is a type such as "cuda"."""
    return {**ALWAYS.get(device, {}), **(MAX_SPEED.get(device, {}) if effort == "max speed" else {})}


def effort_note(effort: str, device: str) -> str | None:
    """What was done for ``max speed``, for people; None with ``fast start``."""
    if effort != "max speed":
        return None
    added = MAX_SPEED.get(device)
    if not added:
        return f"Max speed does nothing more on a {device} device: compiled as with fast start."
    return f"Max speed: {', '.join(WORDS[name] for name in added)}, and the fastest are kept."
