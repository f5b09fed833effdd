"""The engine: many texts grow at once, and come and go as they please.

    submit ──▶ waiting ──▶ running: plan ─▶ forward passes ─▶ draw ─▶ events ──▶ finished
                  ▲            │
                  └─ preempted ┘

One thread calls `step`; any thread may call `submit` and `cancel`. Two promises: by default the
kernels follow the load, so a seed repeats a text only under the same load; with `deterministic`
the same seed gives the same text alone or in any batch.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import attrgetter
from secrets import randbits

import torch

from langwright.base import UserError
from langwright.generate.answer_limit import request_limit, start_id
from langwright.generate.decoding.decoder import Decoder
from langwright.generate.decoding.draft_model import DraftModel
from langwright.generate.decoding.draw import row_seeds
from langwright.generate.decoding.ngram import NgramProposer
from langwright.generate.decoding.proposals import Proposer
from langwright.generate.decoding.row import DecodingRow
from langwright.generate.decoding.several import fan_out
from langwright.generate.engine_config import EngineConfig
from langwright.generate.engine_memory import build_store
from langwright.generate.language_model import LanguageModel
from langwright.generate.members import Members, put_together
from langwright.generate.modes import evaluating
from langwright.generate.output import Output
from langwright.generate.paged_cache import follows_length
from langwright.generate.params import SamplingParams
from langwright.generate.requests import EndReason, Event, Request, RequestOutput
from langwright.generate.scheduler import Limits, Scheduler
from langwright.generate.stats import EngineStats
from langwright.generate.stepper import Stepper
from langwright.generate.threads import StepThreads
from langwright.generate.weights import with_weights


class Engine:
    """Generates for everyone.

    Args:
        lm: the model and its tokenizer.
        config: see `EngineConfig`.
        draft: the small model, for ``speculate="draft"``.
    """

    def __init__(
        self,
        lm: LanguageModel,
        config: EngineConfig | None = None,
        *,
        draft: LanguageModel | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.lm = with_weights(lm, self.config.weights, self.config.deterministic)
        self.model, tokenizer = self.lm.model, self.lm.tokenizer
        self._modules = list(self.model.modules())
        on_cpu = self.model.device.type == "cpu"
        self.threads = StepThreads(self._one_token, self.config.threads if on_cpu else None)
        store, pool = build_store(self.model, self.config)
        limits = Limits(
            self.config.max_running,
            self.config.step_tokens,
            self.config.prefix_reuse and not follows_length(self.model.config),
            self.config.deterministic,
            forks=not follows_length(self.model.config),
        )
        self._layout = store.layout
        self._scheduler = Scheduler(pool, store.layout, limits)
        self._stats = EngineStats(cache_pages=pool.total, cache_bytes=store.bytes)
        # A padded output layer may have more symbols than the tokenizer: those are never drawn.
        vocab = self.model.config.vocab_size
        self._vocab = min(vocab, tokenizer.vocab_size) if tokenizer else None
        self._stepper = Stepper(
            self.model,
            self.config,
            store,
            self._scheduler,
            Decoder(self._vocab),
            _proposer(self.config, vocab, draft),
            self._stats,
        )
        self._stepping = threading.RLock()
        self._inbox: deque[tuple[Request, str | None]] = deque()  # what for: None = to be run
        self._work = threading.Event()
        self._live: dict[int, Request] = {}
        self._numbers = itertools.count()

    # ---- for any thread ----

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        on_token: Callable[[Event], None] | None = None,
        deadline: float | None = None,
        priority: int = 0,
        salt: str = "",
        seeds: Sequence[int] | None = None,
    ) -> Request:
        """Ask for answers to a prompt.

        Args:
            prompt_ids: at most context_length - 1; none at all stands for the beginning of a text.
            params: see `SamplingParams`; `n` and `best_of` make several answers.
            on_token: called with every `Event`, in the thread that steps. If it raises, the request
                is cancelled.
            deadline: on the clock of `time.monotonic`; an answer that is not done then is cancelled
                with the error "deadline".
            priority: the higher, the sooner.
            salt: requests of different salt share nothing in the cache.
            seeds: of each answer; none derives them from `params.seed` as `generate_tokens` does.

        Raises:
            UserError: the prompt is too long or the settings name unknown tokens.
        """
        params = params or SamplingParams()
        prompt = list(prompt_ids) or [start_id(self.lm)]
        limit = request_limit(self.lm, prompt, params, self._scheduler.fits)
        children = fan_out(params)
        if seeds is None:
            seeds = answer_seeds([prompt], [params])[0]
        request = Request(next(self._numbers), params, len(prompt), priority, deadline, on_token)
        members = Members(request, self._layout, self.config.block_tokens, salt)
        tokenizer = self.lm.tokenizer
        for index, (child, seed) in enumerate(zip(children, seeds, strict=True)):
            state = DecodingRow(
                child,
                prompt,
                vocab_size=self.model.config.vocab_size,
                seed=seed,
                stop_ids=tokenizer.stop_ids if tokenizer else (),
                tokenizer=tokenizer,
            )
            output = Output(index, state, limit=limit, tokenizer=tokenizer)
            request.texts.append(members.text(index, output, prompt))
        put_together(members, self.lm, self._vocab)
        self._post(request, None)
        return request

    def cancel(self, request: Request, error: str | None = None) -> None:
        """End a request; its memory is free within one step. Ended ones stay as they are."""
        self._post(request, error or "cancelled")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """The answers to all prompts, in order; those of `generate_tokens` for the same seeds.

        Equal prompts of equal seed draw different answers. Another thread may be stepping too.
        """
        given = params or SamplingParams()
        settings = [given] * len(prompts) if isinstance(given, SamplingParams) else list(given)
        if len(settings) != len(prompts):
            raise ValueError(f"{len(settings)} settings for {len(prompts)} prompts")
        seeds = answer_seeds(prompts, settings)
        requests: list[Request] = []
        try:
            for prompt, each, own in zip(prompts, settings, seeds, strict=True):
                requests.append(self.submit(prompt, each, seeds=own))
            while not all(request.finished for request in requests):
                self.step()
        except BaseException:
            for request in requests:
                self.cancel(request)
            raise
        return [request.result() for request in requests]

    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams | None = None
    ) -> Iterator[Event]:
        """The events of one request as they come. Left early, the request is cancelled."""
        events: deque[Event] = deque()
        request = self.submit(prompt_ids, params, on_token=events.append)
        try:
            while not request.finished or events:
                if events:
                    yield events.popleft()
                else:
                    self.step()
        finally:
            if not request.finished:
                self.cancel(request)
                self.step()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._inbox or self._live)

    def wait_for_work(self, seconds: float | None = None) -> bool:
        """Sleep until there is something to do; whether there is."""
        return self.busy or self._work.wait(seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No step runs inside: the model may be used for something else, or its weights changed.

        Whoever changes the weights calls `forget` before the end.
        """
        with self._stepping:
            yield

    def forget(self) -> int:
        """Drop what the cache holds of ended texts; how many blocks that were. What was compiled is
        compared with the weights as they are now."""
        with self._stepping:
            self._stepper.renew()
            return self._scheduler.pool.forget()

    def stats(self) -> EngineStats:
        """Counts since the start, and the present state."""
        now, scheduler = self._stats, self._scheduler
        pool = scheduler.pool
        return EngineStats(
            **{
                **vars(now),
                "finished": dict(now.finished),
                "running": len(scheduler.running),
                "waiting": len(scheduler.waiting),
                "cache_used_pages": pool.used,
                "evicted_blocks": pool.evicted,
                "preemptions": scheduler.preemptions,
                "reused_tokens": scheduler.reused_tokens,
                "threads": self.threads.count,
                "calibrations": self.threads.calibrations,
                "vector_bytes": sum(one.kept_bytes for one in list(self._live.values())),
            }
        )

    # ---- for the thread that steps ----

    def step(self) -> list[Event]:
        """One step of all running texts; what it gave, in the order of the texts.

        A forward pass that raises ends its own texts with the reason "error"; the others go on.
        """
        with self._stepping:
            begun = time.perf_counter()
            events = self._take_in()
            with self._evaluating():
                works = self._scheduler.plan()
                lengths = [work.text.pages.length for work in works]
                events += self._stepper.advance(works)
            seconds = time.perf_counter() - begun
            self._stats.steps += 1
            self._stats.step_seconds += seconds
            if all(work.new == 1 for work in works):
                self.threads.look(lengths, seconds)
            self._tell(events)
            self._work.clear()
            if self.busy:  # also what came in between
                self._work.set()
        return events

    def _evaluating(self) -> AbstractContextManager[None]:
        """As `evaluating`, without walking through the model in every step."""
        if True in map(attrgetter("training"), self._modules):
            return evaluating(self.model)
        return torch.no_grad()

    def _one_token(self) -> None:
        """What threads are measured on: one token of one text."""
        with evaluating(self.model):
            self.model(torch.zeros(1, 1, dtype=torch.int64))

    def _take_in(self) -> list[Event]:
        """New requests, cancelled ones, and those whose time is over."""
        events: list[Event] = []
        while self._inbox:
            request, error = self._inbox.popleft()
            if error is None:
                self._live[request.id] = request
                for text in request.members:
                    self._scheduler.add(text)
            else:
                reason: EndReason = "error" if request.error else "cancelled"
                events += self._end_request(request, reason, error)
        now = time.monotonic()
        for request in list(self._live.values()):
            if request.deadline is not None and now >= request.deadline:
                events += self._end_request(request, "cancelled", "deadline")
        return events

    def _end_request(self, request: Request, reason: EndReason, error: str) -> list[Event]:
        open_texts = [text for text in request.texts if text.reason is None]
        return [self._stepper.end(text, reason, error) for text in open_texts]

    def _tell(self, events: list[Event]) -> None:
        """Give events to whoever asked, and let go of the requests that have ended."""
        now = time.monotonic()
        for event in events:
            request = self._live[event.request]
            if request.first_token is None and event.token is not None:
                request.first_token = now
            if request.on_token is None:
                continue
            try:
                request.on_token(event)
            except Exception as error:
                self._stats.failures += 1
                request.on_token = None
                request.error = f"on_token raised: {error}"
                self.cancel(request, request.error)
        for number in {event.request for event in events if event.finish_reason}:
            request = self._live[number]
            if all(text.reason is not None for text in request.texts):
                del self._live[number]
                request.close()

    def _post(self, request: Request, error: str | None) -> None:
        self._inbox.append((request, error))
        self._work.set()


def answer_seeds(
    prompts: Sequence[Sequence[int]], settings: Sequence[SamplingParams]
) -> list[list[int]]:
    """The seeds of each prompt's answers, as `generate_tokens` and `generate_several` have them.
    Where none was asked for, all come of one random number."""
    children, fresh = [fan_out(one) for one in settings], randbits(62)
    seeds = row_seeds(
        [fresh if one.seed is None else one.seed for each in children for one in each],
        [prompt for prompt, each in zip(prompts, children, strict=True) for _ in each],
    )
    found = iter(seeds)
    return [list(itertools.islice(found, len(each))) for each in children]


def _proposer(
    config: EngineConfig, vocab_size: int, draft: LanguageModel | None
) -> Proposer | None:
    """Where guesses come from."""
    if config.speculate == "ngram":
        return NgramProposer(config.speculate_tokens)
    if config.speculate == "draft":
        if draft is None:
            raise UserError(
                'speculate = "draft" needs a draft model',
                where="speculate",
                fix='give a small model of the same vocabulary, or use "ngram"',
            )
        return DraftModel(draft.model, vocab_size, tokens=config.speculate_tokens)
    return None
