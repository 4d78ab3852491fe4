"""What is known of a session, and how it reaches the record."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

from ...patching.instead import TookPart
from ...processors.attention_patch import AttentionPatch
from ...processors.choosing.running import trials
from ...status import Record
from ..blocks.shared_graph import GRAPHS, GraphCache
from ..choice.prove import PROOFS, Proofs
from ..measuring.block import Block
from ..measuring.model_memory import ModelMemory, Variant
from ..measuring.step_measuring import Measuring
from .compiler import Compiler
from .failures import Failures, ModelUnfit, why_uncompiled
from .prepared_model import PreparedModel
from .record_fields import Known, backend_field, session_fields
from .sampling import Sampling
from .settings import Host, Settings
from .step import Step


class SessionState:
    """``replaced_by`` is the id of a later OneDiff Compile node whose session took this one's place, until this one
    samples (for another branch). With ``skips_classes_without_gain`` blocks whose class gains nothing are not compiled;
    with ``plans`` besides, on a CPU, nothing is that would not pay (a speed report shows what all of it gains).
    ``foreign`` and ``patches`` are what other nodes, and this pack's, have put on the model's attention. ``title`` is
    that of the node, ``unit`` what its times are of: "step", or "run".
    """

    title = "OneDiff Compile"
    unit = "step"

    def __init__(
        self,
        settings: Settings,
        record: Record,
        host: Host,
        device: torch.device,
        proofs: Proofs = PROOFS,
        graphs: GraphCache = GRAPHS,
    ):
        self.settings = settings
        self.record = record
        self.host = host
        self.device = device
        self.dtype = torch.float32  # what the model computes in
        self.model: PreparedModel | None = None
        self.blocks: list[Block] = []
        self.memory = ModelMemory()
        self.skips_classes_without_gain = self.plans = settings.keep_faster
        self.measuring = Measuring(device, settings.keep_faster)
        self.measuring.repeats = self.unit == "run"
        self.failures = Failures()
        self.compiler = Compiler(settings, device, proofs, graphs, host.cancel)
        self.foreign: list[dict[str, str]] = []
        self.patches: list[AttentionPatch] = []
        self.replaced_by: str | None = None
        self.during = Sampling()  # the one that goes on, or went on last
        self.took_part = TookPart()  # in the samplings of a prompt
        self.step = Step(None, Variant())  # the one that runs, or ran last

    @property
    def shape(self) -> Hashable:
        """Of the step that runs, or ran last."""
        return self.measuring.shape

    @property
    def patched(self) -> list[dict[str, str]]:
        """The sites that this pack's patches have now, with their processors."""
        return [described for patch in self.patches for described in patch.described]

    @property
    def patch_speedup(self) -> float | None:
        """How many times as fast this pack's patches make a step, as they computed it; None where none did."""
        gains = [patch.gain for patch in self.patches if patch.gain is not None and patch.sites]
        if not gains:
            return None
        after = min(gain["after_ms"] for gain in gains)  # each is that of a whole step, with all of them
        return (after + sum(gain["before_ms"] - gain["after_ms"] for gain in gains)) / after if after > 0 else None

    @property
    def patches_decide(self) -> bool:
        """Whether a patch decides in the step that begins what computes attention: it runs uncompiled, and compiling is
        decided around what was chosen."""
        return any(patch.deciding for patch in self.patches)

    def without_trials(self, milliseconds: float) -> float:
        """What a step took without what patches tried in it."""
        return milliseconds - sum(trial.spent for trial in trials())

    @property
    def called(self) -> list[Block]:
        """The blocks that the model calls, as far as the last step shows: an adapter's layers may wait on a model that
        does without them now."""
        return [block for block in self.blocks if block.called]

    @property
    def uncompiled_because(self) -> str | None:
        """Why steps like the last one run uncompiled as a whole, None when they do not."""
        return why_uncompiled(self.failures, self.measuring, self.called)

    @property
    def step_was_compiled(self) -> bool:
        """Whether the last model call ran compiled, and neither compiled nor compared anything."""
        return self.uncompiled_because is None and self.step.was_compiled

    @property
    def settled(self) -> bool:
        """Whether steps like the last one were timed both ways, or run uncompiled for good."""
        return self.uncompiled_because is not None or self.measuring.settled

    def publish(self, live: bool = False) -> None:
        """Writes what is known now into the record; ``live`` ones only as often as pages are told."""
        if live and not self.record.due:
            return
        if self.measuring.last_steps:
            self.record.stamp()
        known = Known(
            blocks=self.blocks,
            compiler=self.compiler,
            measuring=self.measuring,
            sampling=self.during,
            breaks=self.failures.breaks,
            patched=self.patched,
            foreign=self.foreign,
            uncompiled_because=self.uncompiled_because,
            replaced_by=self.replaced_by,
            was_checked=self.model is not None,
            keeps_faster=self.settings.keep_faster,
            device=self.device,
            host_version=self.host.version,
            patch_speedup=self.patch_speedup,
            unit=self.unit,
        )
        self.record.update(live=live, **session_fields(known, self.record["backend"]))

    def _note_backend(self, reason: str, **fields: Any) -> None:
        """``reason``: why this one, or why the model runs uncompiled."""
        self.record.update(backend=backend_field(self.settings.backend, self.compiler.backend, reason), **fields)

    def give_way(self, node: str) -> None:
        """Another OneDiff Compile node took over the model that this one's node handed on."""
        self.replaced_by = node
        self.publish()

    def give_up(self, reason: str) -> None:
        """From now on the model runs uncompiled, at next to no cost."""
        self.failures.given_up = reason
        self.step.watching = False
        self._note_backend(reason)
        self.publish()
        self._stop_if_unfit()

    def _stop_if_unfit(self) -> None:
        reason = self.failures.first(self.blocks) if self.settings.stop_if_unfit else None
        if reason is not None:
            self._note_backend(reason, state="failed", progress=None)
            raise ModelUnfit(str(self.record["node"]), reason, self.title)
