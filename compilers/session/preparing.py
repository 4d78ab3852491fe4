"""What a session does before anything runs, and what it decides of each run: the model looked at, its blocks, the
backend, what their classes gain."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import nn

from ...checks import Finding
from ...checks.reaching.batches import FindBatched
from ...checks.reaching.reach import FindReach
from ...processors.attention_patch import AttentionPatch
from ...status import Record
from ..backends.protocol import BackendUnavailable
from ..blocks.batches import Batches
from ..blocks.shared_graph import GRAPHS, GraphCache
from ..choice.prove import PROOFS, Proofs
from ..measuring.block import Block
from ..measuring.cleared import CLEARED
from ..measuring.gains import GAINS, Gains
from .failures import common_reason, gain_nothing, leave_out
from .faults import Faults, Sizes, Turns
from .one_block.block_runner import BlockRunner
from .prepared_model import PreparedModel, contents
from .record_fields import model_fields
from .settings import Host, Settings
from .step import Step


class Preparing(Faults):
    """Part of a session. It is what a block's runner tells (``Listener``)."""

    def __init__(
        self,
        settings: Settings,
        record: Record,
        host: Host,
        device: torch.device,
        findings: tuple[Finding, ...] = (),
        find_reach: FindReach | None = None,
        find_batched: FindBatched | None = None,
        proofs: Proofs = PROOFS,
        graphs: GraphCache = GRAPHS,
        gains: Gains = GAINS,
    ):
        super().__init__(settings, record, host, device, proofs, graphs)
        self.gains = gains
        self._runners: list[BlockRunner] = []
        self._turns, self._sizes, self._cleared = Turns(), Sizes(), CLEARED.marks
        self._gains_of: tuple = ()
        self.findings, self._find_reach, self._find_batched = findings, find_reach, find_batched
        self._contents: list[tuple[str, int]] = []
        self._tried: set[Hashable] = set()  # shapes of calls

    def _forget_tried(self) -> None:
        """What calls that ran already showed holds no longer."""
        self._tried.clear()

    def _forget_cleared(self) -> None:
        """Lets go of what the user cleared since the last sampling."""
        before, self._cleared = self._cleared, CLEARED.marks
        if before.measurements != self._cleared.measurements:
            self.measuring.forget()
            self._forget_tried()
            for runner in self._runners:
                runner.forget_measurements()
        if before.graphs != self._cleared.graphs:
            self._contents, self.blocks, self._runners = [], [], []
            self.compiler.forget()
            self.failures.forget()
        if before.backends != self._cleared.backends and self.compiler.backend is None:
            self._contents, self.failures.given_up = [], None

    def prepare(
        self,
        diffusion_model: nn.Module,
        patches: Sequence[AttentionPatch] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Checks the model and its processors, finds its blocks and chooses the backend; again when another node
        changed its modules or patched attention. ``patches`` are those on its attention, the outermost first.

        Raises:
            ModelUnfit: when something cannot be compiled and the user asked to stop then.
        """
        found = contents(diffusion_model, patches)
        if found == self._contents:
            return
        self._contents, self.dtype = [], dtype  # until all is known: Cancel may come before
        self.record.update(state="checking", progress=None)
        findings, scope, cancel = self.findings, self.settings.scope, self.host.cancel
        try:
            model = PreparedModel(
                diffusion_model, patches, findings, self._find_reach, scope, dtype, self.device, cancel
            )
            self.model, self.memory = model, model.memory
            self.compiler.batches = Batches(self._find_batched, [region.path for region in model.regions])
            self.record.update(check=model.check, **model_fields(diffusion_model, self.device))
            self.blocks = [Block(r, model.sites[r.path], *model.reasons(r.path)) for r in model.regions]
            parts = (self.compiler, self.failures, self.memory, self, self.host, self.device, dtype)
            self._runners = [BlockRunner(block, *parts) for block in self.blocks]
            if not self.blocks:
                self.give_up(f"this model has no part that scope “{scope}” could compile.")
            else:
                self.record.update(state="starting", progress=None)  # Inductor takes many seconds in a new process
                self._choose_backend()
        except BaseException:  # Cancel among others: the next sampling checks again
            self._contents, self.model, self.blocks, self._runners = [], None, [], []
            self.during.broke_off = True
            if self.record["state"] != "failed":
                self.publish()
            raise
        self._contents = found
        self.publish()
        self._stop_if_unfit()

    def _choose_backend(self) -> None:
        try:
            reason = self.compiler.choose_backend()
        except BackendUnavailable as error:
            self.give_up(error.reason)
            return
        leave_out(self.blocks, self.compiler.holds_operators)
        self._note_backend(reason)

    def _give_gains(self, functions: tuple) -> None:
        """Tells the blocks what is known of their classes, with what runs in them now."""
        size = self.measuring.size.partition("×")[2] if self.plans else None
        now = (functions, size, replace(CLEARED.marks, backends=0), self.blocks)
        if self.skips_classes_without_gain and now != self._gains_of:
            self._gains_of = now
            self.gains.give(self.blocks, self.device.type, (*self.compiler.way, self.dtype), size)

    def _after(self, step: Step, milliseconds: float) -> None:
        for block in self.blocks:
            block.called = block.ran
        self.measuring.note(milliseconds, step.kind)
        if step.watching or step.compared:
            self.measuring.count(milliseconds, compiled=False)
            if step.watching:
                return
            for patch in self.patches:
                patch.note_uncompiled(milliseconds)
        elif step.ran_compiled and not step.dirty and not self.compiler.waiting:
            self.measuring.count(milliseconds, compiled=True)
        elif gain_nothing(self.called) and not step.dirty:
            self.measuring.count(milliseconds, compiled=False)
        reason = common_reason(self.called)
        if reason is not None:
            self.give_up(reason)
        else:
            self._found_slow()
            self.publish(live=not step.dirty)

    @property
    def _compares_next(self) -> bool:
        """Whether the next step runs uncompiled beside compiled ones: not before there are any, and all."""
        is_compiled = any(block.parity for block in self.blocks) and not self.compiler.waiting
        return is_compiled and self.measuring.uncompiled_next

    def _found_slow(self) -> bool:
        if self.measuring.found_slow(gain_nothing(self.called) and not self.step.dirty):
            self.publish(live=self.record["state"] == "uncompiled")  # found again where that was looked at
        return self.measuring.is_slow

    def compiling(self, block: Block) -> None:
        """Tells people which block is next, and lets Cancel through."""
        self.host.check_interrupt()
        self.step.dirty = True
        progress = self.compiler.progress(block, self.called)
        self.record.update(live=progress["done"] > 0, state="compiling", progress=progress)

    def comparing(self, block: Block) -> None:
        """Nothing is compiled: people go on seeing how fast it is."""
        self.host.check_interrupt()
        self.step.dirty = True
