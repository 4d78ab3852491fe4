"""Executes a captured region in OneFlow: an ``oneflow.nn.Graph`` for each combination of sizes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import oneflow as flow
import torch
from torch import fx, nn

from .exceptions import MissingOperator
from .launching import without_queue
from .operators import OPERATORS
from .tensors import DTYPES, to_oneflow, to_torch, wait

#: Graphs kept a captured function, the least recently used going first. Each holds a copy of a block's weights.
MAX_GRAPHS = 8

#: Held from a graph's start until it has run, in place of OneFlow's own queue.
_ONE_AT_A_TIME = threading.Lock()
without_queue()


class Lowered:
    """A function captured by Dynamo, as OneFlow runs it.

    The captured graph serves all sizes, OneFlow's do not: there sizes are part of a graph. Weights are inputs like
    others, so blocks of a kind share a graph, and what a LoRA writes or puts in their place is in the next run.

    Args:
        module: the captured graph, of ATen operators without side effects.
        on_build: told after each graph built, the size that it is for, empty for the first.
        on_run: told after each run.

    Raises:
        MissingOperator: when OneFlow has no operator for one in the graph.
    """

    def __init__(self, module: fx.GraphModule, on_build: Callable[[str], None], on_run: Callable[[], None]):
        self._module = module
        self._on_build = on_build
        self._on_run = on_run
        self._built = False
        self._graphs: OrderedDict[Hashable, _SizedGraph] = OrderedDict()
        self._constants = [node for node in module.graph.nodes if node.op == "get_attr"]
        for node in module.graph.nodes:
            if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
                if _name(node) not in OPERATORS:
                    raise MissingOperator(_name(node), line_of(node), "OneFlow has no counterpart")
            elif node.op not in ("placeholder", "get_attr", "call_function", "output"):
                raise MissingOperator(str(node.target), line_of(node), "it calls a module")

    def __call__(self, *args: Any) -> list[Any]:
        """Runs on torch tensors and numbers, and returns those."""
        inputs = [*args, *(getattr(self._module, str(node.target)) for node in self._constants)]
        tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
        device = tensors[0].device if tensors else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()  # OneFlow has streams of its own
        key = tuple((tuple(v.shape), v.dtype, v.device) if isinstance(v, torch.Tensor) else v for v in inputs)
        graph = self._graphs.get(key)
        is_new = graph is None
        if graph is None:
            graph = self._graphs[key] = _SizedGraph(self._module, inputs)
        self._graphs.move_to_end(key)
        try:
            results = graph.run(tensors, device)
        except BaseException:
            del self._graphs[key]
            raise
        if is_new:
            self._on_build(_sizes(args) if self._built else "")
            self._built = True
            while len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
        self._on_run()
        return graph.outputs(inputs, results)


class _SizedGraph:
    """One ``oneflow.nn.Graph``: the captured graph with all sizes filled in."""

    def __init__(self, module: fx.GraphModule, inputs: list[Any]):
        nodes = list(module.graph.nodes)
        self._module = module
        placeholders = [node for node in nodes if node.op in ("placeholder", "get_attr")]
        placeholders.sort(key=lambda node: node.op == "get_attr")
        self._position = {node: index for index, node in enumerate(placeholders)}
        self._inputs = inputs
        self._outputs = next(node for node in nodes if node.op == "output").args[0]
        symbols = _symbols(placeholders, inputs)
        self._strides = {
            node: tuple(_number(stride, symbols) for stride in node.meta["val"].stride())
            for node in self._outputs
            if isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)
        }
        self._numbers: dict[fx.Node, Any] = {}
        #: The outputs that OneFlow computes, in the order in which its graph returns them.
        self._computed = [node for node in dict.fromkeys(self._strides) if node not in self._position]
        graph = self

        class Region(flow.nn.Graph):
            def build(self, *tensors: Any) -> Any:
                return graph._build(tensors)

        self._graph = Region() if self._computed else None

    def _build(self, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
        """Walks the captured graph with OneFlow's tensors in place of torch's."""
        given = iter(tensors)
        values: dict[fx.Node, Any] = {}
        for node, position in self._position.items():
            value = self._inputs[position]
            values[node] = next(given) if isinstance(value, torch.Tensor) else value
        for node in self._module.graph.nodes:
            if node.op != "call_function":
                continue
            args = fx.map_arg(node.args, values.__getitem__)
            kwargs = fx.map_arg(node.kwargs, values.__getitem__)
            if not isinstance(node.target, torch._ops.OpOverload):
                values[node] = node.target(*args, **kwargs)
                continue
            try:
                values[node] = _cast(OPERATORS[_name(node)](*args, **kwargs), node.meta.get("val"))
            except Exception as error:
                raise MissingOperator(_name(node), line_of(node), _first_line(error)) from error
        self._numbers = {
            node: values[node] for node in self._outputs if isinstance(node, fx.Node) and node not in self._strides
        }
        # An output that is an input's memory must be the graph's own.
        return tuple(flow._C.identity(values[node]) for node in self._computed)

    def run(self, tensors: list[torch.Tensor], device: torch.device) -> list[Any]:
        """OneFlow's results, once they are there. Until then its threads read the inputs, of which some are copies that
        nobody else holds."""
        given = [to_oneflow(tensor) for tensor in tensors]
        if self._graph is None:
            self._build(tuple(given))
            return []
        with _ONE_AT_A_TIME:
            try:
                results = self._graph(*given)
            finally:
                wait(device)
        self._inputs = [None if isinstance(v, torch.Tensor) else v for v in self._inputs]
        return list(results) if isinstance(results, tuple | list) else [results]

    def outputs(self, inputs: list[Any], results: list[Any]) -> list[Any]:
        """What the captured graph returns, as torch's tensors and numbers."""
        computed = {
            node: to_torch(result, self._strides[node]) for node, result in zip(self._computed, results, strict=True)
        }
        known = {node: inputs[position] for node, position in self._position.items()}
        return [
            ({**known, **self._numbers, **computed}[value] if isinstance(value, fx.Node) else value)
            for value in self._outputs
        ]


def _name(node: fx.Node) -> str:
    """ "aten.add" for any overload of it."""
    return str(node.target).rpartition(".")[0]


def _cast(result: Any, expected: Any) -> Any:
    """The result in the dtype that torch gives it."""
    if isinstance(result, tuple) and isinstance(expected, tuple | list):
        return tuple(_cast(r, e) for r, e in zip(result, expected, strict=False))
    if not isinstance(expected, torch.Tensor) or result is None or result.dtype == DTYPES[expected.dtype]:
        return result
    return result.to(DTYPES[expected.dtype])


def _symbols(placeholders: list[fx.Node], inputs: list[Any]) -> dict[Any, int]:
    """What each symbolic size of the captured graph is this time."""
    return {
        node.meta["val"].node.expr: value
        for node, value in zip(placeholders, inputs, strict=True)
        if isinstance(node.meta.get("val"), torch.SymInt)
    }


def _number(size: Any, symbols: dict[Any, int]) -> int:
    return int(size.node.expr.xreplace(symbols)) if isinstance(size, torch.SymInt) else int(size)


def _sizes(args: tuple[Any, ...]) -> str:
    """The largest input's size, for people; tables of rotations have more dimensions."""
    tensors = [value for value in args if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter)]
    largest = max(tensors, key=lambda tensor: (tensor.ndim in (3, 4), tensor.numel()), default=None)
    return "×".join(map(str, largest.shape)) if largest is not None else "these"


def line_of(node: fx.Node) -> str:
    """Where in the model's source a node comes from, "attention.py:520"."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    frames = [line for line in lines if line.startswith('File "')]
    own = [frame for frame in frames if "site-packages" not in frame] or frames
    if not own:
        return "unknown line"
    file, _, rest = own[-1].removeprefix('File "').partition('", line ')
    return f"{file.replace(chr(92), '/').rpartition('/')[2]}:{rest.partition(',')[0]}"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
