"""What ``POST /onediff/clear`` answers, and what it does to the records."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from onediff_pack.status import Hub
from onediff_pack.status.routes import add_routes


def answer(data: str, clear: dict) -> tuple[int, dict]:
    async def ask():
        routes = web.RouteTableDef()
        add_routes(routes, Hub(), list, clear)
        app = web.Application()
        app.add_routes(routes)
        async with TestClient(TestServer(app)) as client:
            response = await client.post("/onediff/clear", data=data)
            return response.status, await response.json()

    with ThreadPoolExecutor(1) as thread:  # the browser tests leave a running event loop in this one
        return thread.submit(asyncio.run, ask()).result()


def test_what_is_named_is_cleared_and_the_answer_is_its_sentence():
    done = []
    clear = {"a": lambda: done.append("a") or "A is gone.", "b": lambda: done.append("b") or "B is gone."}
    assert answer('{"what": "b"}', clear) == (200, {"cleared": "B is gone."})
    assert done == ["b"]


@pytest.mark.parametrize("data", ["", "no JSON", "[]", '{"what": "c"}', '{"what": null}', '{"what": ["a"]}'])
def test_anything_else_clears_nothing_and_says_what_can_be(data):
    status, body = answer(data, {"a": lambda: pytest.fail("cleared")})
    assert status == 400
    assert body == {"error": 'Nothing was cleared: send the JSON {"what": "a"}.'}


def test_forgotten_speed_leaves_the_rest_of_a_record():
    hub = Hub()
    kept = hub.record("a", "1")
    kept.update(state="compiled", speed={"kept": "compiled", "speedup": 2}, parity={"passed": True})
    kept.stamp()
    slower, patched = hub.record("a", "2"), hub.record("a", "3")
    slower.update(state="uncompiled", speed={"kept": "uncompiled", "speedup": 0.5})
    patched.update(state="patched", patches={"sites": [], "foreign": []})
    hub.forget_speed()
    assert [record["speed"] for record in (kept, slower, patched)] == [None] * 3
    assert [record["state"] for record in (kept, slower, patched)] == ["compiled", "idle", "patched"]
    assert kept["parity"] == {"passed": True}
    assert kept["measured_at"] is None
