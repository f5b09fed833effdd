"""The ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from langwright.generate import Engine
from langwright.serve.auth import Guard, read_keys
from langwright.serve.config import ServeConfig
from langwright.serve.errors import ApiError, json_response, on_api_error, on_bug, on_http_error
from langwright.serve.openapi import openapi
from langwright.serve.routes import ROUTES, Handler
from langwright.serve.server import Server
from langwright.serve.stream import ClientLeft


def create_app(engine: Engine, config: ServeConfig | None = None) -> Starlette:
    """The server as an ASGI app; its `state.server` is the `Server`.

    Nothing else may step the engine while the app runs.

    Raises:
        UserError: the model has no tokenizer, or the file of keys is no good.
    """
    config = config or ServeConfig()
    server = Server(engine, config)
    keys = [] if config.api_keys is None else read_keys(config.api_keys)
    document = openapi(bool(keys))

    async def describe(request: Request) -> Response:
        return json_response(document)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        server.thread.start(asyncio.get_running_loop())
        try:
            yield
        finally:
            await asyncio.to_thread(server.close)

    routes = [Route(one.starlette_path, _safe(one.handler), methods=[one.method]) for one in ROUTES]
    routes.append(Route("/openapi.json", describe, methods=["GET"]))
    guards = [Middleware(Guard, config=config, keys=keys)]
    if config.origins:
        cross = Middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
        guards.insert(0, cross)
    app = Starlette(
        routes=routes,
        middleware=guards,
        lifespan=life,
        exception_handlers={
            ApiError: on_api_error,
            HTTPException: on_http_error,
        },
    )
    app.state.server = server
    return app


def _safe(handler: Handler) -> Handler:
    """A handler whose client may leave, and which may fail."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientLeft:
            return Response(status_code=499)  # as nginx writes it; nobody reads it
        except (ApiError, HTTPException):
            raise
        except Exception as error:  # caught here, as the app's own way logs what the error says
            return await on_bug(request, error)

    handle.__name__ = handler.__name__
    return handle
