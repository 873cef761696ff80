"""Errors as visitors may see them: what is wrong with the model, the settings or the disk is the owner's to know."""

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from chat.api.errors import refusal
from chat.errors import MessageTooLong, ModelNotReady, PromptFailed
from chat.presets import InvalidPreset
from chat.visitors import MAX_CHARS, PresetUnfit
from model.errors import EngineBusy, ModelError
from storage.errors import DatabaseUnusable

RETRY_SECONDS = 5

logger = logging.getLogger(__name__)


def hide_internals(api: FastAPI) -> None:
    """Have an application say no more than that it cannot answer now, where the error would tell of internals."""
    for internal in (ModelError, ModelNotReady, PromptFailed, PresetUnfit, InvalidPreset, DatabaseUnusable):
        api.add_exception_handler(internal, _unavailable)
    api.add_exception_handler(MessageTooLong, _too_long)


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, ModelNotReady | EngineBusy | PromptFailed):  # the last may quote what was said
        logger.warning("a visitor got no answer: %s", error)
    seconds = error.retry_after if isinstance(error, EngineBusy) else RETRY_SECONDS
    text = f"There is no answer to be had right now. Try again in {seconds} s."
    return refusal(503, text, "unavailable", headers={"Retry-After": str(seconds)})


async def _too_long(request: Request, error: Exception) -> JSONResponse:
    """Tell of the limit for all; what else fits depends on what the owner has said to the model."""
    assert isinstance(error, MessageTooLong), "it is registered for these"
    text = str(error) if error.limit == MAX_CHARS else "The message is too long for this chat: shorten it."
    return refusal(400, text, "message_too_long", param="content")
