"""Old nodes that pass on what they are given, and say why nothing else is done."""

from __future__ import annotations

from ...host.migration.stock_nodes import samplers, schedulers, stock
from .given import Given
from .row import ANY_SIZE, NO_INT8, SAVED_ANYWAY

_REMOVE = "You can remove this node."


def graphs(given: Given) -> tuple:
    """Loaders and savers of compiled graphs."""
    given.say(f"not needed: {SAVED_ANYWAY}", "OneDiff Compile keeps it on disk, and loads what fits.", _REMOVE)
    return given.passed_on()


def not_needed(given: Given) -> tuple:
    """Nodes that told the compiler of sizes and batches."""
    given.say(f"not needed: {ANY_SIZE}", "It compiles for the sizes that it gets.", _REMOVE)
    return given.passed_on()


def quantise(given: Given) -> tuple:
    given.say("nothing was quantised or saved", f"{NO_INT8}.", _REMOVE)
    return ()


def sample(given: Given) -> tuple:
    """Quant K Sampler: a KSampler whose int8 settings have no effect."""
    model = given.model()
    for name in ("positive", "negative", "latent_image"):
        if name not in given:
            given.end(name, f"{name} is not connected", f"Connect {name}.")
    sampled = stock(
        "KSampler",
        model=model,
        seed=int(given.number("seed", 0, 0, 2**64 - 1)),
        steps=int(given.number("steps", 20, 1, 10_000)),
        cfg=given.number("cfg", 8.0, 0.0, 100.0),
        sampler_name=given.choice("sampler_name", ("euler", *samplers())),
        scheduler=given.choice("scheduler", ("normal", *schedulers())),
        positive=given.inputs["positive"],
        negative=given.inputs["negative"],
        latent_image=given.inputs["latent_image"],
        denoise=given.number("denoise", 1.0, 0.0, 1.0),
    )
    given.say("sampled without int8", f"{NO_INT8}.", "Use KSampler.")
    return (sampled[0],)
