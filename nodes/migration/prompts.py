"""CLIP Text Encode (PromptStyle): two prompts, and a style from the user's own file."""

from __future__ import annotations

import logging

from ...host.migration.prompt_styles import FOLDER, NO_STYLE, styles
from ...host.migration.stock_nodes import stock
from .given import Given

log = logging.getLogger(__name__)


def encode(given: Given) -> tuple:
    if not hasattr(given.inputs.get("clip"), "tokenize"):
        given.end("clip", "clip is not connected to a text encoder", "Connect one, as of a checkpoint.")
    name = given.text("style", NO_STYLE)
    style = styles().get(name)
    positive, negative = given.text("text_positive"), given.text("text_negative")
    if style and given.flag("style_positive", True):
        positive = style.prompt.replace("{prompt}", positive)
    if style and given.flag("style_negative", True):
        negative = ", ".join(part for part in (style.negative, negative) if part)
    if given.flag("log_prompt", True):
        log.info("%s (node %s): %s | %s", given.row.title, given.record["node"], positive, negative)
    if style is None and name != NO_STYLE:
        given.say(
            f"the prompts as they are: there is no style {name[:60]!r} here",
            "OneDiff's list of styles is not part of this pack.",
            f"Put a JSON file of styles into models/{FOLDER}, or write the style into the prompt.",
        )
    else:
        given.say("the prompts as they are" if style is None else f"style: {name}")
    clip = given.inputs["clip"]
    return tuple(stock("CLIPTextEncode", clip=clip, text=text)[0] for text in (positive, negative))
