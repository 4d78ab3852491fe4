"""The compiled code of one block, by what it was compiled for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ....patching.calls import Inputs
from ...blocks.batches import carry, form_of
from ...blocks.hindrances import Methods
from ...blocks.shared_graph import SharedGraph
from ...blocks.tensors import tensors_of
from ...blocks.transformer_options import in_key
from ...measuring.block import Block
from ..compiler import Compiler

#: Combinations of patches and settings that a block is compiled for. A setting may change every step.
MAX_VARIANTS = 4

#: Combinations of forms in which foreign code acts in it: more than people go to and fro between.
MAX_OPERATORS = 16

#: Part of a variant's key: compiled with casts emulated, because it was not right without.
EMULATED = "casts emulated"

#: The same: each batch is compiled apart.
APART = "batches apart"

Operators = tuple
"""In which roles foreign code acts inside the block, and of what form its results are; () when none does."""


class Variants:
    """A variant is told by the functions that run in the block, the dtype of its weights, the options it reads and
    the operators in it."""

    def __init__(self, block: Block, compiler: Compiler):
        self._block = block
        self._compiler = compiler
        self._compiled: dict[tuple, Callable] = {}

    def find(
        self,
        functions: tuple,
        methods: Methods,
        dtype: torch.dtype | None,
        entering: dict[str, Any],
        operators: Operators,
        inputs: Inputs,
    ) -> tuple[tuple, SharedGraph | None]:
        """The key of a variant, and its graph; no graph where there are too many variants."""
        graphs = self._block.graphs
        key: tuple = (functions, methods, dtype, operators, in_key(entering))
        if key not in graphs:
            known = [other[3] for other in graphs if EMULATED not in other and APART not in other]
            is_new = operators not in known and len(set(known)) >= MAX_OPERATORS
            if is_new or known.count(operators) >= MAX_VARIANTS:
                return key, None
        graph = self._graph_of(key)
        if graph.apart or (graph.batch is not None and not self._carries(graph, inputs)):
            key = (*key, APART)
            graph = self._graph_of(key)
        if graph in self._compiler.imprecise:
            key = (*key, EMULATED)
            graph = self._graph_of(key)
        return key, graph

    def _carries(self, graph: SharedGraph, inputs: Inputs) -> bool:
        """Whether a graph for every batch can take these."""
        assert graph.batch is not None
        tensors = tensors_of(inputs)
        form = form_of(tensors)
        if form not in graph.batch:
            graph.batch[form] = self._compiler.batch_of(self._block.path, form)
        batch = graph.batch[form]
        return batch is not None and carry(batch, tensors)

    def _graph_of(self, key: tuple) -> SharedGraph:
        graphs, block = self._block.graphs, self._block
        if key not in graphs:
            graph = self._compiler.graph_of((block.signature, *key), key[0][0], block.kind)
            graph.emulates_casts = EMULATED in key
            graph.is_code_alone = self._compiler.holds_code_alone and not key[1][1] and block.keeps_nothing(key[0])
            if self._compiler.takes_any_batch and not (graph.graphs or graph.apart or APART in key):
                graph.batch = graph.batch or {}
            graphs[key] = graph
        return graphs[key]

    def run(self, key: tuple, graph: SharedGraph, inputs: Inputs) -> Any:
        """Runs the block compiled."""
        if key not in self._compiled:
            self._compiled[key] = self._compiler.compile(self._block.module, graph)
        return self._compiled[key](*inputs[0], **inputs[1])
