"""The pack's HTTP routes. None waits on the event loop; only ``/onediff/clear`` changes anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import ClientPayloadError, web

from .hub import Hub

#: Bytes of a request that says what to clear.
LONGEST_BODY = 1_000


def add_routes(
    routes: web.RouteTableDef,
    hub: Hub,
    backends: Callable[[], list[dict[str, Any]]],
    clear: Mapping[str, Callable[[], str]],
    cache_size: Callable[[], dict[str, int | None]] = dict,
) -> None:
    """Adds ``GET /onediff/status``, ``GET /onediff/backends``, ``GET /onediff/kept`` and ``POST /onediff/clear`` to the
    server's route table.

    ``clear`` holds, by the ``what`` of the request, what forgets something and says so in a sentence.
    """

    @routes.get("/onediff/status")
    async def status(_request: web.Request) -> web.Response:
        return web.json_response({"records": hub.snapshot()})

    answering: asyncio.Future[list[dict[str, Any]]] | None = None

    @routes.get("/onediff/backends")
    async def list_backends(_request: web.Request) -> web.Response:
        nonlocal answering
        if answering is None or answering.done():
            answering = asyncio.get_running_loop().run_in_executor(None, backends)
        rows = await asyncio.shield(answering)  # who goes away does not end it for the others
        return web.json_response({"backends": rows})

    @routes.get("/onediff/kept")
    async def kept(_request: web.Request) -> web.Response:
        size = await asyncio.get_running_loop().run_in_executor(None, cache_size)
        return web.json_response({"cache": size, "models": hub.measured()})

    @routes.post("/onediff/clear")
    async def clear_something(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            error = "Nothing was cleared: send JSON, with the header “Content-Type: application/json”."
            return web.json_response({"error": error}, status=415)
        body = await _body(request)
        what = body.get("what") if isinstance(body, dict) else None
        if not isinstance(what, str) or what not in clear:
            names = " or ".join(f'{{"what": "{name}"}}' for name in clear)
            return web.json_response({"error": f"Nothing was cleared: send the JSON {names}."}, status=400)
        said = await asyncio.get_running_loop().run_in_executor(None, clear[what])
        return web.json_response({"cleared": said})


async def _body(request: web.Request) -> Any:
    """The JSON of a small request; None for anything else."""
    read = b""
    try:
        async for chunk in request.content.iter_chunked(LONGEST_BODY):
            read += chunk
            if len(read) > LONGEST_BODY:
                return None
        return json.loads(read.decode(request.charset or "utf-8"))
    except (ValueError, LookupError, RecursionError):  # no JSON, a charset that is none, nested too deep
        return None
    except (web.RequestPayloadError, ClientPayloadError):  # not packed as its header says
        return None
