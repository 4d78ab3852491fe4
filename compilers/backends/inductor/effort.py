"""What the node's ``effort`` means to Inductor, per type of device.

=========  ======  =======================================================================================
effort     device  settings (names of torch._inductor.config)
=========  ======  =======================================================================================
both       all     Inductor's own, but for those below; no CUDA graphs, because blocks hand tensors on to
                   each other
both       cpu     ``layout_optimization`` off: with it every call of a convolution puts its weights into
                   channels-last order anew
both       cpu     ``cpp_wrapper`` where fewer than four C++ files are compiled at a time: all kernels of a graph
                   are one file, which costs fewer seconds than many that wait for each other
max speed  cuda    ``max_autotune``: each matrix product is timed here as cuBLAS and as Triton kernels
                   ``coordinate_descent_tuning``: so are the tilings of the other kernels
max speed  cpu     as fast start, see below
=========  ======  =======================================================================================

What ``max speed`` adds times variants of a kernel on the user's own machine and keeps the fastest, so that each is kept
only where it helps; the whole is held against uncompiled steps as ever. On a GPU it was not measured yet.

Measured on an H200 (bfloat16, torch 2.11), with Inductor's own settings: transformer blocks of Flux ran 1.12 and 1.16
times as fast, the whole model 1.13 times. Of its 137 ms a step, 73 are matrix products and 42 are flash attention,
which compiling leaves as they are. Residual blocks of SDXL ran 0.79 and 0.98 times as fast (see
compilers/measuring/class_gain.py); a third of the time of one with 1280 channels at 32×32 is cuDNN's reordering of
weights and activations to channels-last.

Measured on 2 cores (AMD EPYC, float32, torch 2.11), times as fast as uncompiled, by ``benchmarks/effort.py`` and, where
a whole model is named, by its steps taking turns:

- ``layout_optimization``: a residual block of SD 1.5 ran 1.08 times as fast with it at 32×32, but 0.74 at 16×16 and
  0.57 at 8×8, where its weights outweigh its activations; without, 0.98 to 1.00. The whole model: 0.76 with it, 0.97
  and 1.00 (two runs) without, and compiling it took 38 s and 30 s.
- Weights and activations in channels-last order, by whoever could keep them so: 1.06, 1.07 and 0.92 for the same
  blocks, 0.97 for the whole model with 32×32 latents and 0.99 with 64×64, against 0.99 and 0.99 in plain order. Left
  out.
- Fused QKV: 1.02 and 1.01 for transformer blocks of SD 1.5, against 1.00 and 1.03; and the weights would be there
  twice. Left out.
- ``max_autotune``: 0.99 to 1.03 against 0.98 to 1.03. Without frozen weights it may choose only between two calls of
  the same library (``addmm``, ``bias_addmm``). Left out on a CPU.
- ``coordinate_descent_tuning``: 1.00 to 1.02; it concerns Triton's kernels, and on a CPU the code is the same. Left
  out there.
- ``freezing``: 0.99 to 1.02. It copies weights into the graph, and a LoRA would compile anew. Left out.
- ``cpp_wrapper``: compiling took 18.2 seconds of processor time instead of 23.1 for the small Flux (2 graphs, 15
  kernels) and 40 instead of 51 for the small SD 1.5 (9 graphs), 4.6 of them for the header that all C++ includes; steps
  of that Flux took the same, by turns (0.99, of the fastest 1.01). But the compiler of a graph is alone then, while
  Python waits: the first picture of that Flux took 17.8 s, and 12.4 with many files in version 0.4.0. Built beside
  (see beside.py), with quick strides (strides.py) and headers read beside, it took 12.7, and 12.9 in 0.4.0 (one turn).
- Less optimising by the C++ compiler: with -O1 compiling SD 1.5 took 29 s instead of 30. Left out.
"""

from __future__ import annotations

import sys
from typing import Any

from ....memo import cached

ALWAYS: dict[str, dict[str, Any]] = {"cpu": {"layout_optimization": False}}

#: The setting that has all of a graph compiled as one C++ file.
ONE_FILE = "cpp_wrapper"

#: From so many files at a time on, many small ones are done earlier than one large one.
MANY_AT_A_TIME = 4
MAX_SPEED: dict[str, dict[str, Any]] = {"cuda": {"max_autotune": True, "coordinate_descent_tuning": True}}

#: How each setting of ``MAX_SPEED`` is told to people.
WORDS = {
    "max_autotune": "matrix products are timed in several variants",
    "coordinate_descent_tuning": "tilings of the other kernels are timed",
}


def inductor_config(effort: str, device: str) -> dict[str, Any]:
    """Inductor's settings. ``device`` is a type such as "cuda"."""
    few = {ONE_FILE: True} if device == "cpu" and compiles_few_at_a_time() else {}
    return {**ALWAYS.get(device, {}), **few, **(MAX_SPEED.get(device, {}) if effort == "max speed" else {})}


@cached
def compiles_few_at_a_time() -> bool:
    """Whether Inductor compiles fewer C++ files at a time than one graph has. On Linux: elsewhere it was not run."""
    from torch._inductor import config

    threads = getattr(config, "compile_threads", None)
    return sys.platform == "linux" and threads is not None and threads < MANY_AT_A_TIME


def effort_note(effort: str, device: str) -> str | None:
    """What was done for ``max speed``, for people; None with ``fast start``."""
    if effort != "max speed":
        return None
    added = MAX_SPEED.get(device)
    if not added:
        return f"Max speed does nothing more on a {device} device: compiled as with fast start."
    return f"Max speed: {', '.join(WORDS[name] for name in added)}, and the fastest are kept."
