"""What the routes answer, and what clearing does to the records."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from onediff_pack.status import Hub
from onediff_pack.status.routes import add_routes

JSON = "application/json"


def ask(questions, backends=list, clear=None, hub=None, cache_size=dict):
    """What ``questions(client)`` gives, asked of a server with the routes."""

    async def serve():
        routes = web.RouteTableDef()
        add_routes(routes, hub or Hub(), backends, clear or {}, cache_size)
        app = web.Application()
        app.add_routes(routes)
        async with TestClient(TestServer(app)) as client:
            return await questions(client)

    with ThreadPoolExecutor(1) as thread:  # the browser tests leave a running event loop in this one
        return thread.submit(asyncio.run, serve()).result()


def answer(data: str | bytes, clear: dict, kind: str = JSON) -> tuple[int, dict]:
    async def post(client):
        response = await client.post("/onediff/clear", data=data, headers={"Content-Type": kind})
        return response.status, await response.json()

    return ask(post, clear=clear)


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


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ('{"what": ' + "[" * 100_000, JSON),
        ("[" * 900, JSON),
        ('{"what": "a"}', f"{JSON}; charset=nosuch"),
        ('{"what": "a"}', f"{JSON}; charset=hex"),
        (b'{"what": "\xff"}', JSON),
        ('{"what": "a", "more": "' + "x" * 10**6 + '"}', JSON),
    ],
    ids=["deep", "deep and short", "no charset", "no charset for texts", "not in its charset", "long"],
)
def test_a_body_that_is_no_small_json_is_refused(data, kind):
    status, body = answer(data, {"a": lambda: pytest.fail("cleared")}, kind)
    assert status == 400
    assert body == {"error": 'Nothing was cleared: send the JSON {"what": "a"}.'}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_foreign_page_can_send_without_asking_clears_nothing(kind):
    status, body = answer('{"what": "a"}', {"a": lambda: pytest.fail("cleared")}, kind)
    assert status == 415
    assert "Content-Type: application/json" in body["error"]


def test_questions_for_backends_at_the_same_time_share_one_answer():
    asked = []

    def backends():
        asked.append(1)
        time.sleep(0.3)
        return [{"name": f"answer {len(asked)}"}]

    async def forty(client):
        gone = asyncio.create_task(client.get("/onediff/backends"))
        others = [asyncio.create_task(client.get("/onediff/backends")) for _ in range(39)]
        await asyncio.sleep(0.1)
        gone.cancel()  # a page that is closed
        answers = [await response.json() for response in await asyncio.gather(*others)]
        return answers, await (await client.get("/onediff/backends")).json()

    answers, later = ask(forty, backends)
    assert answers == [{"backends": [{"name": "answer 1"}]}] * 39
    assert later == {"backends": [{"name": "answer 2"}]}, "a later question is answered anew"


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


def test_a_body_that_is_not_packed_as_it_says_is_no_fault_of_the_server():
    async def post(client):
        headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
        response = await client.post("/onediff/clear", data=b"zzzz", headers=headers)
        return response.status

    assert ask(post, clear={"a": lambda: pytest.fail("cleared")}) == 400


def test_what_is_kept_is_the_cache_and_each_measured_model_once_the_last_one_first():
    hub = Hub()
    small = {"class": "UNetModel", "parameters": 9, "dtype": "float16", "device": "cpu"}
    for node, model, speed, when in (
        ("1", {**small, "file": "sd15.safetensors"}, {"eager_ms": 5}, "2026-01-02T00:00:00+00:00"),
        ("2", {**small, "class": "Flux"}, {"eager_ms": 5}, "2026-01-01T00:00:00+00:00"),
        ("3", small, {"eager_ms": 7}, "2026-01-03T00:00:00+00:00"),
        ("4", {**small, "class": "Never"}, None, None),
        ("5", {**small, "class": "Flux", "file": "flux.safetensors"}, {"eager_ms": 5}, "2026-01-02T12:00:00+00:00"),
        ("6", {**small, "file": "other.safetensors"}, {"eager_ms": 5}, "2026-01-01T00:00:00+00:00"),
    ):
        hub.record("w", node).data.update(model=model, speed=speed, measured_at=when)

    async def get(client):
        return await (await client.get("/onediff/kept")).json()

    kept = ask(get, hub=hub, cache_size=lambda: {"bytes": 3, "files": 1, "limit": 9})
    assert kept["cache"] == {"bytes": 3, "files": 1, "limit": 9}
    assert [(model["file"], model["class"]) for model in kept["models"]] == [
        ("sd15.safetensors", "UNetModel"),
        ("flux.safetensors", "Flux"),
        ("other.safetensors", "UNetModel"),
    ]
    assert kept["models"][0]["measured_at"] == "2026-01-03T00:00:00+00:00"
    hub.forget_speed()
    assert ask(get, hub=hub)["models"] == []
