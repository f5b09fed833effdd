"""What all routes share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from langwright import __version__
from langwright.base import UserError, hash_json
from langwright.generate import Engine
from langwright.serve.config import ServeConfig
from langwright.serve.engine_thread import EngineEnded, EngineThread
from langwright.serve.errors import ApiError, from_user_error
from langwright.serve.metrics import Metrics
from langwright.serve.queue import Admission
from langwright.serve.split import THINK
from langwright.serve.token_texts import TokenTexts

T = TypeVar("T")
HELPERS = 2  # threads that tokenise and compile forms


class Server:
    """The engine with its thread, the queue, the counters and the model's facts.

    Raises:
        UserError: the model has no tokenizer.
    """

    def __init__(self, engine: Engine, config: ServeConfig) -> None:
        self.engine, self.config = engine, config
        self.lm = engine.lm
        self.tokenizer = engine.lm.text_tokenizer
        self.context = engine.lm.config.context_length
        self.texts = TokenTexts(self.tokenizer)
        self.thread = EngineThread(engine)
        self.admission = Admission(config, engine.config.max_running)
        self.metrics = Metrics()
        self.most_bytes = config.body_bytes
        if self.tokenizer.joins_bytes:  # then a text has at least so many tokens
            longest = max(4, self.texts.longest())  # 4: a character that is not in the vocabulary
            self.most_bytes = self.context * longest
        self.created = int(time.time())
        self.fingerprint = "fp_" + hash_json([engine.lm.config.to_json(), __version__])[:12]
        self._helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="serve")

    @property
    def thinks(self) -> bool:
        """Whether answers may begin with <think>."""
        if self.config.reasoning != "auto":
            return self.config.reasoning == "on"
        knows = THINK in self.tokenizer.special_tokens
        return knows or THINK in (self.tokenizer.chat_template or "")

    def check_model(self, name: str | None) -> None:
        """A request may name our model or none; 404 for another one."""
        if name is not None and name != self.config.name:
            raise ApiError(
                404,
                f"no model {name[:100]!r} here; there is {self.config.name!r}",
                param="model",
                code="model_not_found",
            )

    def check_length(self, text: str, param: str) -> None:
        """Refuse a text that cannot fit the context, before any work is done for it."""
        size = len(text.encode("utf-8", "replace"))
        if size > self.most_bytes:
            raise ApiError(
                400,
                f"{param}: {size:,} bytes are longer than the model's context of "
                f"{self.context} tokens",
                param=param,
                code="context_length_exceeded",
            )

    def check_alive(self) -> None:
        """503 when the engine was given up."""
        if self.thread.dead is not None:
            raise ApiError(503, "the engine has ended", code="engine_dead", retry=False)

    async def apart(self, work: Callable[[], T]) -> T:
        """Run work of the processor outside the event loop; a `UserError` becomes a 400."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._helpers, work)
        except UserError as error:
            raise from_user_error(error) from None
        except EngineEnded:
            raise ApiError(503, "the engine has ended", code="engine_dead", retry=False) from None

    async def bounded(self, key: str, work: Callable[[], T]) -> T:
        """As `apart`, for work that needs no engine; it has a place in the queue all the same."""
        place = self.admission.enter(key, 1)
        try:
            return await self.apart(work)
        finally:
            self.admission.leave(place, timed=False)

    async def between_steps(self, work: Callable[[], T]) -> T:
        """Run work of the model in the engine's thread; a `UserError` becomes a 400."""
        try:
            return await self.thread.call(work)
        except UserError as error:
            raise from_user_error(error) from None

    def drain(self) -> None:
        """Take no more requests; those that run may end."""
        self.admission.draining = True

    def cut(self) -> None:
        """End what still runs: clients get what there is."""
        self.thread.cancel_all("deadline")

    def close(self) -> None:
        """The end: the engine's thread stops."""
        self.drain()
        self.thread.stop()
        self._helpers.shutdown(wait=False, cancel_futures=True)
