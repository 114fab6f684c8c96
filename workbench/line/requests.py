"""Reads what a page posts, up to a length, and answers with JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from workbench.errors import is_user_error
from workbench.line.contract import MOST_BYTES, ProtocolError

NO_STORE = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Headers of every answer: proxies neither keep it nor hold back its lines."""


async def document_of(request: Request) -> Any:
    """Returns the JSON document of a request, read up to MOST_BYTES.

    Raises:
        ProtocolError: it is longer, or no JSON, or broken off. NaN and infinity are JSON for Python
            only, so they are refused.
    """
    body = b""
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BYTES:
                raise ProtocolError(f"the message is longer than {MOST_BYTES:,} bytes.")
    # A page breaks off its wish when it has a newer one.
    except ClientDisconnect:
        raise ProtocolError("the message was broken off.") from None

    def refuse(text: str) -> None:
        raise ProtocolError(f"{text} is no number.")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the message is no JSON: {str(error)[:200]}") from None


async def done(request: Request, work: Callable[[Any], dict[str, Any]]) -> Response:
    """Answers with what some work makes of the request's document; 400 if the work refuses it."""
    try:
        document = await document_of(request)
        answer = await asyncio.to_thread(work, document)
    except Exception as error:
        if not is_user_error(error):
            raise
        return JSONResponse({"error": str(error)}, status_code=400, headers=NO_STORE)
    return JSONResponse(answer, headers=NO_STORE)
