"""What a prompt that ended says of a model that nothing sampled in it, or of a VAE that nothing used.

No host in here: it is handed what is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeGuard

from .record import Record

#: Types of outputs that carry no model. Any other type may: a guider does, and so do other packs' pipes.
DATA = frozenset(
    {
        *("LATENT", "IMAGE", "MASK", "AUDIO", "VIDEO", "CONDITIONING", "SIGMAS", "NOISE"),
        *("VAE", "CLIP", "CLIP_VISION", "CLIP_VISION_OUTPUT", "CONTROL_NET", "UPSCALE_MODEL", "ONEDIFF_PROCESSOR"),
        *("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"),
    }
)

#: Types through which what a node gives is used, by the type of what it gives: a ControlNet acts through prompts.
CARRIED_BY = {"VAE": frozenset({"VAE"}), "CONTROL_NET": frozenset({"CONTROL_NET", "CONDITIONING"})}

#: Types of outputs that come of sampling a model, or of using a VAE.
SAMPLED = frozenset({"LATENT", "IMAGE", "AUDIO", "VIDEO"})


#: See ``route``.
Route = frozenset[tuple[str, str, tuple[tuple[str, int], ...]]]


class NodeClass(NamedTuple):
    """What is asked of a class of nodes: types of its outputs, whether it is ComfyUI's own, and whether it is ours."""

    outputs: tuple[str, ...]
    is_hosts: bool = False
    is_ours: bool = False

    @property
    def carried_by(self) -> frozenset[str]:
        """The types of ``DATA`` through which what it gives first is used; none where that is a model."""
        return CARRIED_BY.get(self.outputs[0], frozenset()) if self.outputs else frozenset()


def is_link(value: Any) -> TypeGuard[tuple[str, int]]:
    """Whether an input of a prompt is another node's output: ``["3", 0]``."""
    return isinstance(value, list) and [type(part) for part in value] == [str, int]


@dataclass(frozen=True)
class EndedPrompt:
    """One prompt that ran to its end.

    ``graph`` is what was queued: ``{"3": {"class_type": "KSampler", "inputs": {"model": ["1", 0]}}}``; ``wanted`` the
    nodes whose output was asked for; ``cached`` those that did not run. ``records`` are ours by execution id, as the
    history has them; ``began`` is in seconds since 1970.
    """

    workflow: str | None
    began: float
    graph: dict[str, Any]
    wanted: tuple[str, ...]
    cached: frozenset[str]
    records: dict[str, dict[str, Any]]

    def class_of(self, node: str) -> str:
        """The class of a node, empty when it has none."""
        return str(self.graph[node].get("class_type", "")) if node in self.graph else ""

    def links(self, node: str) -> Iterator[tuple[str, int]]:
        """Nodes that a node gets its inputs from, and the number of the output."""
        inputs = self.graph[node].get("inputs")
        for value in inputs.values() if isinstance(inputs, dict) else ():
            if is_link(value) and value[0] in self.graph:
                yield value[0], value[1]

    @cached_property
    def takers(self) -> dict[str, list[tuple[str, int]]]:
        """Of each node those that get an input from it, and the number of the output: looked up once, for prompts of
        hundreds of nodes."""
        found: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for node in self.graph:
            for source, slot in self.links(node):
                found[source].append((node, slot))
        return dict(found)

    @cached_property
    def executed(self) -> set[str]:
        """The nodes that ran: what was wanted needs them, and they were not cached. Looked up once, too."""
        ran, waiting = set(), [node for node in self.wanted if node in self.graph]
        while waiting:
            node = waiting.pop()
            if node not in ran and node not in self.cached:
                ran.add(node)
                waiting += [source for source, _ in self.links(node)]
        return ran


def not_sampled(prompt: EndedPrompt, node: str, record: Record, class_of: Callable[[str], NodeClass]) -> bool:
    """Whether a prompt made something of a node's model, or meant to, and nothing sampled that model in it. The same
    of a node's VAE or ControlNet, which something else uses.

    Nobody was expected to sample where only our own nodes took the model, where the sampler was cached, or where a node
    of another pack may keep the model for a later prompt.
    """
    executed = prompt.executed
    ran = node in executed or node in prompt.cached
    if record.sampled_at >= prompt.began or not ran:
        return False
    takers = _takers(prompt, node, class_of)
    for taker in takers & prompt.cached:
        kind = prompt.class_of(taker)
        if not class_of(kind).is_ours and not record.samplers.isdisjoint({kind, None}):
            return False
    return any(taker in executed and _was_expected(prompt, taker, takers, class_of) for taker in takers)


def route(prompt: EndedPrompt, node: str, class_of: Callable[[str], NodeClass]) -> Route:
    """The nodes that a node's model comes to, their classes, and where they get their inputs from."""
    takers = _takers(prompt, node, class_of)
    return frozenset((taker, prompt.class_of(taker), tuple(prompt.links(taker))) for taker in takers)


def _takers(prompt: EndedPrompt, node: str, class_of: Callable[[str], NodeClass]) -> set[str]:
    """The nodes that a node's model comes to, directly or through others."""
    found: set[str] = set()
    waiting, data = [node], DATA - class_of(prompt.class_of(node)).carried_by
    while waiting:
        source = waiting.pop()
        outputs = class_of(prompt.class_of(source)).outputs
        for other, slot in prompt.takers.get(source, ()):
            if _type(outputs, slot) not in data and other not in found and other != node:
                found.add(other)
                waiting.append(other)
    return found


def _was_expected(prompt: EndedPrompt, taker: str, takers: set[str], class_of: Callable[[str], NodeClass]) -> bool:
    kind = class_of(prompt.class_of(taker))
    if kind.is_ours:
        return False
    hands_on = any(other in takers for other, _ in prompt.takers.get(taker, ()))
    return not SAMPLED.isdisjoint(kind.outputs) or (kind.is_hosts and not hands_on)


def _type(outputs: tuple[str, ...], slot: int) -> str:
    return outputs[slot] if slot < len(outputs) else "*"
