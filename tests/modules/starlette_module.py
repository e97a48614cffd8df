"""A Starlette module with a mounted application, registered by its lifespan."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from registry_admin.discovery import lifespan


async def quick(_request: Request) -> Response:
    return PlainTextResponse("ok")


async def slow(_request: Request) -> Response:
    await asyncio.sleep(1)
    return PlainTextResponse("ok")


mounted = Starlette(routes=[Route("/slow", slow)])
app = Starlette(routes=[Route("/health", quick), Route("/", quick), Mount("/", mounted)], lifespan=lifespan())
