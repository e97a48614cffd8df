"""Instances that answer within this process, for tests: their replies are bytes that the real reader reads."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeAlias

import requests

from registry_admin.discovery.http.failures import attempt_error
from registry_admin.discovery.http.framing import ReplyError, ResponseHead
from registry_admin.discovery.http.reader import ResponseReader
from registry_admin.discovery.http.request import CallRequest
from registry_admin.discovery.http.response import ServiceResponse
from registry_admin.discovery.http.upload import Upload
from registry_admin.errors import Outcome


@dataclass(frozen=True, kw_only=True)
class SentRequest:
    """A request as an instance receives it. `target` is path and query, percent-encoded; names of headers as sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


# The whole reply, head and body. A coroutine is awaited on the caller's event loop, or on one made for it.
Answer: TypeAlias = Callable[[SentRequest], bytes | Coroutine[Any, Any, bytes]]
answers: dict[str, Answer] = {}  # by the root URL of an instance; empty but in tests


def answer(request: CallRequest, base_url: str, headers: Mapping[str, str], *, body_limit: int) -> requests.Response:
    """Returns the response of the instance at `base_url`. Raises AttemptError, and what the instance raises."""
    import asyncio  # noqa: PLC0415 - for tests only
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    try:
        reply = answers[base_url](_sent(request, base_url, headers))
        if not isinstance(reply, bytes):
            with ThreadPoolExecutor(1) as thread:  # because an event loop may be running on this one
                reply = thread.submit(copy_context().run, asyncio.run, reply).result()
    except ConnectionRefusedError as error:
        raise attempt_error(error, Outcome.NOT_SENT) from error
    return _response(request, base_url, headers, reply=reply, body_limit=body_limit)


async def answer_async(
    request: CallRequest, base_url: str, headers: Mapping[str, str], *, body_limit: int
) -> requests.Response:
    """Does the same as `answer` on the running event loop."""
    try:
        reply = answers[base_url](_sent(request, base_url, headers))
        if not isinstance(reply, bytes):
            reply = await reply
    except ConnectionRefusedError as error:
        raise attempt_error(error, Outcome.NOT_SENT) from error
    response = _response(request, base_url, headers, reply=reply, body_limit=body_limit)
    return response if not request.is_streamed else _streamed(request, base_url, headers, response)


def _streamed(
    request: CallRequest, base_url: str, headers: Mapping[str, str], response: ServiceResponse
) -> requests.Response:
    """Returns a response whose body is iterated as that of a real instance."""
    from registry_admin.discovery.http.async_response import AsyncStreamedResponse  # noqa: PLC0415 - needs asyncio
    from registry_admin.discovery.http.async_stream import MemoryBody  # noqa: PLC0415

    head = ResponseHead(11, response.status_code, response.reason, list(response.header_pairs))
    body, limit = MemoryBody(response.content), len(response.content)
    return AsyncStreamedResponse(
        request, base_url, source=body, sent_headers=headers, head=head, elapsed_s=0.0, body_limit=limit
    )


def _sent(request: CallRequest, base_url: str, headers: Mapping[str, str]) -> SentRequest:
    body = request.body.read_all() if isinstance(request.body, Upload) else request.body
    sent_headers = request.prepare(base_url, headers).headers
    return SentRequest(method=request.method, target=request.target, headers=dict(sent_headers), body=body or b"")


def _response(
    request: CallRequest, base_url: str, headers: Mapping[str, str], *, reply: bytes, body_limit: int
) -> ServiceResponse:
    reader = ResponseReader(request.method, body_limit=body_limit)
    try:
        if not reader.feed(reply):
            reader.feed_eof()
        content = reader.body.decode(reader.head.content_encoding)
    except ReplyError as error:
        raise attempt_error(error, Outcome.MAYBE_RECEIVED) from error
    return ServiceResponse(
        request,
        base_url,
        sent_headers=headers,
        status=reader.head.status,
        reason=reader.head.reason,
        headers=reader.head.headers,
        content=content,
        elapsed_s=0.0,
    )
