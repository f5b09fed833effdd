"""What goes wrong, in the shape that OpenAI's clients read.

Their Python client tries again by itself on 408, 409, 429 and from 500 on, and obeys Retry-After
and x-should-retry. So a mistake of the request is a 4xx, overload a 429 or 503 with Retry-After,
and a failure that would come again says so.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from langwright.base import UserError

log = logging.getLogger("langwright.serve")

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: for a person.
        param: the field of the request that is at fault.
        code: for programs.
        retry_after: seconds until it is worth another try; for 429 and 503.
        retry: False tells clients that another try would fail too.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        retry: bool = True,
    ) -> None:
        self.status, self.param, self.code = status, param, code
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, round(retry_after)))
        if not retry:
            self.headers["x-should-retry"] = "false"
        if status in (408, 413):  # the rest of the body is not read
            self.headers["connection"] = "close"
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """The error as OpenAI writes it."""
        kind = TYPES.get(self.status, "server_error")
        shown = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": shown}

    def response(self) -> Response:
        """The error as an answer of HTTP."""
        return json_response(self.body(), self.status, self.headers)


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON in ASCII: what a client sent cannot make it unwritable."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Response(text, status, headers=headers, media_type="application/json")


def from_user_error(error: UserError) -> ApiError:
    """A request that the engine or the tokenizer refuses."""
    parts = [error.message]
    if error.found is not None:
        parts.append(f"found {error.found[:200]}")
    if error.expected is not None:
        parts.append(f"expected {error.expected[:500]}")
    code = None
    if "longer than the model's context" in error.message:
        code = "context_length_exceeded"
    return ApiError(400, "; ".join(parts), param=error.where, code=code)


def from_validation(error: ValidationError) -> ApiError:
    """The first mistake in a request's body, or in the settings made of it."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    param = place or first.get("ctx", {}).get("field")  # fields that do not go together name one
    return ApiError(400, f"{place}: {message}" if place else message, param=param)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Errors of the routes: no such path, no such method."""
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code == 404 else None
    told = ApiError(error.status_code, f"{error.detail}: {request.url.path[:200]}", code=code)
    told.headers |= dict(error.headers or {})
    return told.response()


async def on_api_error(request: Request, error: Exception) -> Response:
    """Errors that we raise."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_bug(request: Request, error: Exception) -> Response:
    """Anything else is a mistake of ours; nothing of it goes out."""
    log_bug("a request failed", error)
    return inner_error().response()


def log_bug(what: str, error: BaseException) -> None:
    """Log where an error came from, not what it says: that may hold somebody's prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s: %s\n%s", what, type(error).__name__, where)


def inner_error() -> ApiError:
    """A mistake of ours: what it was stands in the log only."""
    return ApiError(500, "an error inside the server", code="internal_error", retry=False)
