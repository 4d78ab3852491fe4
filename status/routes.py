"""The pack's HTTP routes. None waits on the event loop; only ``/onediff/clear`` changes anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from .hub import Hub


def add_routes(
    routes: web.RouteTableDef,
    hub: Hub,
    backends: Callable[[], list[dict[str, Any]]],
    clear: Mapping[str, Callable[[], str]],
) -> None:
    """Adds ``GET /onediff/status``, ``GET /onediff/backends`` and ``POST /onediff/clear`` to the server's route table.

    ``clear`` holds, by the ``what`` of the request, what forgets something and says so in a sentence.
    """

    @routes.get("/onediff/status")
    async def status(_request: web.Request) -> web.Response:
        return web.json_response({"records": hub.snapshot()})

    @routes.get("/onediff/backends")
    async def list_backends(_request: web.Request) -> web.Response:
        rows = await asyncio.get_running_loop().run_in_executor(None, backends)
        return web.json_response({"backends": rows})

    @routes.post("/onediff/clear")
    async def clear_something(request: web.Request) -> web.Response:
        try:
            body = await request.json()
        except ValueError:
            body = None
        what = body.get("what") if isinstance(body, dict) else None
        if not isinstance(what, str) or what not in clear:
            names = " or ".join(f'{{"what": "{name}"}}' for name in clear)
            return web.json_response({"error": f"Nothing was cleared: send the JSON {names}."}, status=400)
        said = await asyncio.get_running_loop().run_in_executor(None, clear[what])
        return web.json_response({"cleared": said})
