"""A custom node without nodes, for the benchmark's server: Dynamo's own counters, whoever compiled."""

from __future__ import annotations

from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS: dict[str, type] = {}

_seen: set[str] = set()


@PromptServer.instance.routes.get("/benchmark/counters")
async def read(_request: web.Request) -> web.Response:
    """Since the last call: graphs, graph breaks, recompiles (of the last 64 compiles), and seconds spent compiling."""
    from torch._dynamo.utils import compilation_time_metrics, counters, get_compilation_metrics

    new = [metrics for metrics in get_compilation_metrics() if str(metrics.compile_id) not in _seen]
    _seen.update(str(metrics.compile_id) for metrics in new)
    answer = {
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": sum(counters["graph_break"].values()),
        "recompiles": sum(bool(metrics.recompile_reason) for metrics in new),
        "seconds": round(sum(compilation_time_metrics.get("_compile.compile_inner", [])), 1),
    }
    counters.clear()
    compilation_time_metrics.clear()
    return web.json_response(answer)
