"""Old nodes that hand on what they are given, and say why nothing else is done."""

from __future__ import annotations

from ...host.migration.stock_nodes import samplers, schedulers, stock
from .given import NOT_YET, Given

_SOON = "Only models are compiled so far."


def vae(given: Given) -> tuple:
    given.say(NOT_YET, _SOON)
    return (given.inputs.get("vae"),)


def control(given: Given) -> tuple:
    given.say(NOT_YET, _SOON)
    names = ("control_net", "cnet_stack")[: len(given.row.outputs)]
    return tuple(given.inputs.get(name) for name in names)


def load_control(given: Given) -> tuple:
    loaded = stock("ControlNetLoader", control_net_name=given.file("control_net_name", "controlnet"))
    given.say(NOT_YET, _SOON)
    return (loaded[0],)


def graphs(given: Given) -> tuple:
    """Loaders and savers of compiled graphs: whichever input the output is of goes on."""
    given.say(
        "not needed: compiled code is kept by itself",
        "OneDiff Compile keeps it on disk, and loads what fits.",
        "Remove this node.",
    )
    kinds = {field.kind: field.name for field in given.row.inputs}
    return tuple(given.inputs.get(kinds[output]) for output in given.row.outputs)


def not_needed(given: Given) -> tuple:
    """Nodes that told the compiler of sizes and batches."""
    given.say(
        "not needed: every size and batch is taken",
        "OneDiff Compile compiles for the sizes that come, and one graph holds for more of them.",
        "Remove this node.",
    )
    kinds = {field.kind: field.name for field in given.row.inputs}
    return tuple(given.inputs.get(kinds[output]) for output in given.row.outputs)


def quantise(given: Given) -> tuple:
    given.say(
        "nothing was quantised or saved",
        "int8 belonged to OneDiff's enterprise build, which is not published any more.",
        "Remove this node.",
    )
    return ()


def sample(given: Given) -> tuple:
    """Quant K Sampler: a KSampler whose settings of int8 have no meaning any more."""
    model = given.model()
    for name in ("positive", "negative", "latent_image"):
        if name not in given:
            given.end(name, f"{name} is not connected", "Connect it.")
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
    given.say(
        "sampled without int8",
        "int8 belonged to OneDiff's enterprise build, which is not published any more.",
        "Use KSampler.",
    )
    return (sampled[0],)
