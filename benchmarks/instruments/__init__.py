"""Custom nodes and routes for the benchmark's server: the same clock and counters for every way to compile."""

from __future__ import annotations

from aiohttp import web
from server import PromptServer

from .blockwise import CompileBlockwise
from .inputs import Conditioning, Keep
from .measure import begin, install_clock, machine, phase, warm_up, watched

NODE_CLASS_MAPPINGS = {
    "BenchmarkConditioning": Conditioning,
    "BenchmarkKeep": Keep,
    "BenchmarkBlockwise": CompileBlockwise,
}

install_clock()


def _route(name, function):
    @PromptServer.instance.routes.get(f"/benchmark/{name}")
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(function())


for _name, _function in (
    ("warm_up", warm_up),
    ("begin", begin),
    ("watched", watched),
    ("phase", phase),
    ("machine", machine),
):
    _route(_name, _function)
