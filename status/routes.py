"""The pack's HTTP routes. Both only read, and neither waits on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from .hub import Hub


def add_routes(routes: web.RouteTableDef, hub: Hub, backends: Callable[[], list[dict[str, Any]]]) -> None:
    """Adds ``GET /onediff/status`` and ``GET /onediff/backends`` to the server's route table."""

    @routes.get("/onediff/status")
    async def status(_request: web.Request) -> web.Response:
        return web.json_response({"records": hub.snapshot()})

    @routes.get("/onediff/backends")
    async def list_backends(_request: web.Request) -> web.Response:
        rows = await asyncio.get_running_loop().run_in_executor(None, backends)
        return web.json_response({"backends": rows})
