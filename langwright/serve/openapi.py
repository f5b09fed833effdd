"""The description of the API (OpenAPI 3.1), made from the types."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from langwright import __version__
from langwright.serve.auth import OPEN_PATHS
from langwright.serve.replies import ErrorReply, Health
from langwright.serve.routes import ROUTES, RouteInfo

PLACE = "#/components/schemas/{model}"
MEANINGS = {
    400: "The request asks for something that cannot be",
    401: "No valid API key",
    403: "A page of another site, or another name than the server's",
    404: "No such model",
    408: "The body did not come in time",
    413: "The body is too large",
    429: "The queue is full; try again after Retry-After seconds",
    500: "The answer failed",
    503: "Too busy, or about to end",
}


def openapi(keys: bool) -> dict[str, Any]:
    """The document. keys: whether they are needed."""
    pairs: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ErrorReply, "serialization")]
    for route in ROUTES:
        pairs += [(one, "validation") for one in (route.body,) if one is not None]
        pairs += [(one, "serialization") for one in (route.reply, route.chunk) if one is not None]
    names, definitions = models_json_schema(list(dict.fromkeys(pairs)), ref_template=PLACE)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, names, keys)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Langwright",
            "version": __version__,
            "description": "OpenAI's API for one language model.",
        },
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }
    if keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _operation(route: RouteInfo, names: dict[Any, Any], keys: bool) -> dict[str, Any]:
    closed = keys and route.path not in OPEN_PATHS
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "responses": _responses(route, names, closed),
    }
    if closed:
        operation["security"] = [{"key": []}]
    if "{model}" in route.path:
        operation["parameters"] = [
            {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if route.body is not None:
        schema = names[(route.body, "validation")]
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _responses(route: RouteInfo, names: dict[Any, Any], closed: bool) -> dict[str, Any]:
    if route.reply is None:
        content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": names[(route.reply, "serialization")]}}
    if route.chunk is not None:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    found: dict[str, Any] = {"200": {"description": "Done", "content": content}}
    for status in sorted({*route.errors, 403, *([401] if closed else [])}):
        told = Health if route.reply is Health and status == 503 else ErrorReply
        error: dict[str, Any] = {
            "description": MEANINGS[status],
            "content": {"application/json": {"schema": names[(told, "serialization")]}},
        }
        if status == 429:
            error["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
        found[str(status)] = error
    return found
