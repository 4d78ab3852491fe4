"""What the console says of the folder that the pack was put into."""

from __future__ import annotations

import asyncio
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")


async def served(folder) -> bool:
    """Whether a server with a route as ComfyUI makes it answers what the editor asks for."""
    app = web.Application()
    app.add_routes([web.static("/extensions/" + folder.name, folder / "web")])
    async with TestClient(TestServer(app)) as client:
        path = f"/extensions/{urllib.parse.quote(folder.name)}/onediff.js"
        return (await client.session.get(URL(f"{client.make_url('')}".rstrip("/") + path, encoded=True))).status == 200


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("comfyui-onediff", []),
        ("OneDiff_2", []),
        ("one diff", ["serves no web files from a folder named “one diff”", "Rename the folder to comfyui-onediff"]),
        ("擴散", ["serves no web files from a folder named “擴散”"]),
        ("100%", ["serves no web files"]),
        ("comfyui-onediff-0.4.0", ["finds no help pages", "“comfyui-onediff-0.4.0”", "Rename the folder"]),
    ],
)
def test_a_name_from_which_no_web_files_are_served_is_said_with_the_remedy(tmp_path, caplog, name, words):
    from onediff_pack.host.pack_folder import warn_of_name

    folder = tmp_path / name
    (folder / "web").mkdir(parents=True)
    (folder / "web" / "onediff.js").write_text("")
    with ThreadPoolExecutor(1) as thread:  # the browser tests leave a running event loop in this one
        thread.submit(asyncio.run, warn_of_name(folder)).result()
        answered = thread.submit(asyncio.run, served(folder)).result()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (1 if words else 0)
    assert all(word in said[0] for word in words)
    assert answered is ("serves no web files" not in "".join(said))
