"""The HTTP server: OpenAI's API on top of the engine (extra `serve`: starlette and uvicorn)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langwright.serve.config import ServeConfig

if TYPE_CHECKING:  # starlette and uvicorn are imported when they are needed
    from langwright.serve.app import create_app
    from langwright.serve.process import run

__all__ = ["ServeConfig", "create_app", "run"]


def __getattr__(name: str) -> Any:
    if name not in ("create_app", "run"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from langwright.base import UserError

    module = "app" if name == "create_app" else "process"
    try:
        return getattr(import_module(f"langwright.serve.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise UserError(
            f"the server needs the library {error.name}", fix="pip install 'langwright[serve]'"
        ) from None
