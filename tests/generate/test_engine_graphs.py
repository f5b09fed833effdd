"""The decoding step recorded and replayed: what is around the recording, proved on a CPU with a
stand-in for CUDA's graphs; on a GPU the graphs themselves."""

from __future__ import annotations

import contextlib
import types
import warnings

import pytest
import torch
from engine_cases import engine_of, prompts_of, random_model

from langwright.generate import EngineConfig, EngineStats, SamplingParams, graphs
from langwright.generate.compiled import CompiledHidden, fast_hidden
from langwright.generate.graphs import WARM_UPS, CudaRecorder, Recording, StepGraphs
from langwright.generate.paged_cache import ZEROS
from langwright.model import ModelConfig

GREEDY = SamplingParams(max_tokens=40, temperature=0.0, logprobs=2)
PROMPTS = prompts_of(3, 90, 17, 1, 64)
CONFIG = ModelConfig(vocab_size=40, context_length=300, width=16, heads=2, layers=2, qk_norm=True)


class StandIn:
    """Records work on a CPU: a replay does it again, on the tensors that it was recorded with.

    error: added to what replays give, from recording `first` on.
    raising: numbers of the recordings that fail.
    """

    def __init__(self, error: float = 0.0, first: int = 0, raising: tuple[int, ...] = ()) -> None:
        self.error, self.first, self.raising = error, first, raising
        self.made = self.recordings = self.replays = 0

    def __call__(self) -> StandIn:
        self.made += 1
        return self._recorder  # type: ignore[return-value]

    def _recorder(self, work) -> Recording:
        number, self.recordings = self.recordings, self.recordings + 1
        output = work()
        if number in self.raising:
            raise RuntimeError("operation not permitted when stream is capturing")
        output = torch.full_like(output, float("nan"))  # recording computes nothing
        error = self.error if number >= self.first else 0.0

        def replay() -> None:
            self.replays += 1
            output.copy_(work() + error)

        return Recording(replay, output)


def recorded(model, stand_in, **settings):
    """An engine whose steps the stand-in records."""
    engine = engine_of(model, **settings)
    stepper = engine._stepper
    stepper.hidden = CompiledHidden(
        model,
        stepper._store,
        compile=False,
        recorder=stand_in,
        exact=engine.config.deterministic,
        stats=stepper._stats,
    )
    return engine


def answers(engine, prompts=PROMPTS, params=GREEDY):
    found = [output.answers[0] for output in engine.generate(prompts, params)]
    return [(list(one.ids), [round(x, 4) for x in one.logprobs]) for one in found]


def same(found, wanted) -> None:
    for (ids, logprobs), (other, expected) in zip(found, wanted, strict=True):
        assert ids == other
        assert logprobs == pytest.approx(expected, abs=3e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": "learned", "norm": "layernorm"},
        {"position": "sinusoidal", "norm_placement": "post"},
        {"kv_heads": 1, "attention_sinks": True, "attention_softcap": 5.0},
    ],
)
@pytest.mark.parametrize("block_tokens", [4, 16])
def test_recorded_steps_change_nothing(changes, block_tokens):
    """Ragged rows that come and go, texts that grow over the edges of pages and shapes."""
    model = random_model(CONFIG.replace(**changes))
    stand_in = StandIn()
    settings = {"max_running": 4, "block_tokens": block_tokens}
    engine = recorded(model, stand_in, **settings)
    same(answers(engine), answers(engine_of(model, **settings)))
    hidden = engine._stepper.hidden
    assert {rows for rows, _ in hidden.shapes} >= {1, 4}
    assert {pages for _, pages in hidden.shapes} == (
        {8, 16} if block_tokens == 16 else {8, 16, 32, 64}
    )
    assert stand_in.recordings == len(hidden.shapes) == hidden.graphs.captured
    assert stand_in.replays > 2 * stand_in.recordings and stand_in.made == 1
    told = f"static shapes; CUDA graphs: {stand_in.recordings} shapes captured"
    assert engine.stats().decoding == told
    store = engine._stepper._store
    assert all(not kept[ZEROS].any() for half in store.kept for kept in half)


@pytest.mark.parametrize("reuse", [False, True])
def test_little_memory_and_prefixes_found_again(reuse):
    """Texts give way to others and come back; the store stays where it is."""
    model = random_model(CONFIG.replace(context_length=64))
    stats = engine_of(model, block_tokens=4).stats()
    each = stats.cache_bytes // (stats.cache_pages + 2)
    settings = {"max_running": 5, "block_tokens": 4, "prefix_reuse": reuse}
    stand_in = StandIn()
    engine = recorded(model, stand_in, cache_bytes=each * 42, **settings)
    store = engine._stepper._store
    before = [kept.data_ptr() for half in store.kept for kept in half]
    prompts = prompts_of(3, 21, 9, 1, 18)
    wanted = answers(engine_of(model, **settings), prompts)
    for _ in range(2):
        same(answers(engine, prompts), wanted)
        same(answers(engine, prompts[1:2]), wanted[1:2])
    assert engine.stats().preemptions > 0 and stand_in.replays > 50 and stand_in.made == 1
    assert (engine.stats().reused_tokens > 0) == reuse
    assert [kept.data_ptr() for half in store.kept for kept in half] == before


def test_several_answers_and_searches():
    """Teams of texts: they fork, and a search drops rows."""
    model = random_model(CONFIG)
    for params in (
        SamplingParams(max_tokens=12, temperature=1.0, n=3, seed=5),
        SamplingParams.parse({"max_tokens": 12, "beam": {"beams": 3}}),
    ):
        found = []
        for engine in (recorded(model, StandIn()), engine_of(model)):
            outputs = engine.generate(PROMPTS[:2], params)
            found.append([[list(one.ids) for one in output.answers] for output in outputs])
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("stand_in", "message", "left_out"),
    [
        (StandIn(error=0.01), "replay gives something else", 3),
        (StandIn(error=float("nan")), "replay gives something else", 3),
        (StandIn(error=0.01, first=2), "replay gives something else", 1),
        (StandIn(raising=(0, 2)), "not permitted when stream is capturing", 2),
    ],
)
def test_what_fails_runs_unrecorded(stand_in, message, left_out):
    model = random_model(CONFIG)
    settings = {"max_running": 2, "block_tokens": 4}
    engine = recorded(model, stand_in, **settings)
    params = [GREEDY.replace(max_tokens=most) for most in (30, 60)]  # one row is left at the end
    prompts = prompts_of(40, 50)
    with pytest.warns(UserWarning, match=message) as told:
        same(
            answers(engine, prompts, params), answers(engine_of(model, **settings), prompts, params)
        )
    assert len(told) == left_out and "no CUDA graph for steps of" in str(told[0].message)
    hidden = engine._stepper.hidden
    assert len(hidden.shapes) == 3 == stand_in.recordings
    assert hidden.graphs.captured == 3 - left_out
    assert engine.stats().decoding.endswith(f"{3 - left_out} shapes captured, {left_out} not")
    assert engine.stats().failures == 0


def test_what_a_wrong_replay_left_in_the_cache_is_written_over():
    """The step itself comes last, so that keys and values are its own."""
    kept = torch.zeros(3)

    class Spoiling(StandIn):
        def _recorder(self, work):
            usual = super()._recorder(work)

            def replay():
                usual.replay()
                kept.fill_(-1)

            return Recording(replay, usual.output)

    def step(x):
        kept.copy_(x)
        return x * 2

    one = StepGraphs(step, [kept], torch.device("cpu"), Spoiling(error=1.0))
    with pytest.warns(UserWarning, match="something else"):
        assert torch.equal(one(torch.ones(3)), torch.full((3,), 2.0))
    assert torch.equal(kept, torch.ones(3))


def test_the_number_of_recordings_is_bounded(monkeypatch):
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    model = random_model(CONFIG)
    stand_in = StandIn()
    settings = {"max_running": 4, "block_tokens": 4}
    engine = recorded(model, stand_in, **settings)
    same(answers(engine), answers(engine_of(model, **settings)))
    hidden = engine._stepper.hidden
    assert stand_in.recordings == len(hidden.graphs.shapes) == 2 < len(hidden.shapes)


def test_moved_weights_are_recorded_anew():
    model = random_model(CONFIG)
    stand_in = StandIn()
    engine = recorded(model, stand_in, prefix_reuse=False)
    answers(engine)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)  # in place: the recordings see it
    same(answers(engine), answers(engine_of(model)))
    assert stand_in.made == 1
    done = stand_in.recordings
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.2
    same(answers(engine), answers(engine_of(model)))
    assert stand_in.made == 2 and stand_in.recordings > done
    assert engine._stepper.hidden.graphs.captured == stand_in.recordings - done


def test_results_stay_when_the_next_step_runs():
    one = StepGraphs(lambda x: x * 2, [], torch.device("cpu"), StandIn())
    x = torch.arange(3.0)
    results = [one(x), one(x + 1), one(x + 2)]
    x.fill_(9)
    assert [y.tolist() for y in results] == [[0, 2, 4], [2, 4, 6], [4, 6, 8]]
    assert one(torch.ones(3, 2)).shape == (3, 2) and len(one.shapes) == 2


def test_deterministic_mode_takes_the_same_bits_only():
    model = random_model(CONFIG)
    settings = {"max_running": 4, "step_tokens": 150}
    near = StandIn(error=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = recorded(model, near, **settings)
        answers(engine)
    assert engine._stepper.hidden.graphs.captured == near.recordings > 0
    with pytest.warns(UserWarning, match="something else"):
        engine = recorded(model, StandIn(error=1e-6), deterministic=True, **settings)
        answers(engine, PROMPTS[:1])
    assert engine._stepper.hidden.graphs.captured == 0
    engine = recorded(model, StandIn(), deterministic=True, **settings)
    together = answers(engine)
    assert {rows for rows, _ in engine._stepper.hidden.shapes} == {1}
    for prompt, wanted in zip(PROMPTS, together, strict=True):
        assert answers(recorded(model, StandIn(), deterministic=True, **settings), [prompt]) == [
            wanted
        ]


def test_what_is_chosen_is_told():
    model = random_model(CONFIG)
    store = engine_of(model)._stepper._store

    def chosen(store, **settings):
        stats = EngineStats()
        return fast_hidden(model, store, EngineConfig(**settings), stats), stats.decoding

    hidden, told = chosen(store)
    assert not isinstance(hidden, CompiledHidden) and told == "as the model is"
    store.device = torch.device("cuda")
    hidden, told = chosen(store)
    assert told == "static shapes; CUDA graphs: 0 shapes captured"
    assert isinstance(hidden.graphs.record, CudaRecorder) and not hidden.graphs.exact
    assert hidden.graphs.record.device == store.device
    assert chosen(store, deterministic=True, step_tokens=200)[0].graphs.exact
    hidden, told = chosen(store, cuda_graphs=False)
    assert not isinstance(hidden, CompiledHidden) and told == "as the model is"
    store.dtype = torch.int8
    hidden, told = chosen(store)
    assert not isinstance(hidden, CompiledHidden) and told == "as the model is: an 8-bit cache"


class FakeCuda:
    """The parts of torch.cuda that a recording uses, writing down what is done on which stream."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.on, self.count, self.broken = "main", 0, False
        outer = self

        class Stream:
            def __init__(self, name="side"):
                self.name = name

            def wait_stream(self, other):
                outer.log.append(f"{self.name} waits for {other.name}")

        class Graph:
            def __init__(self):
                outer.count += 1
                self.number = outer.count

            def pool(self):
                return (0, 1)

            def replay(self):
                outer.log.append(f"replay {self.number}")

        self.Stream, self.CUDAGraph = Stream, Graph
        self.device = lambda _: contextlib.nullcontext()

    def current_stream(self):
        return self.Stream(self.on)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.on = self.on, stream.name
        try:
            yield
        finally:
            self.on = before

    @contextlib.contextmanager
    def graph(self, graph, pool, capture_error_mode):
        self.log.append(f"capture {graph.number} in pool {pool}, {capture_error_mode}")
        self.on = "capture"
        yield
        if self.broken:  # as torch does: the stream stays what it was
            raise RuntimeError("broken capture")
        self.on = "main"


def test_recording_warms_up_aside_and_shares_one_pool(monkeypatch):
    cuda = FakeCuda()
    monkeypatch.setattr(graphs, "torch", types.SimpleNamespace(cuda=cuda))
    record = CudaRecorder(torch.device("cuda"))

    def work():
        cuda.log.append(f"work on {cuda.on}")
        return torch.ones(1)

    cuda.broken = True
    with pytest.raises(RuntimeError, match="broken capture"):
        record(work)
    assert cuda.on == "main" and record.pool is None
    cuda.broken, cuda.log = False, []
    for _ in range(2):
        record(work).replay()
    aside = ["side waits for main", *["work on side"] * WARM_UPS, "main waits for side"]
    for number, pool in ((2, None), (3, (0, 1))):
        begun = (number - 2) * (len(aside) + 3)
        assert cuda.log[begun : begun + len(aside) + 3] == [
            *aside,
            f"capture {number} in pool {pool}, thread_local",
            "work on capture",
            f"replay {number}",
        ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compile", [False, True])
def test_graphs_on_cuda(dtype, compile):
    """With captured steps the same tokens come as without."""
    model = random_model(CONFIG.replace(width=64, kv_heads=1)).to("cuda")
    model.compute_dtype = dtype
    settings = {"max_running": 4, "block_tokens": 4, "compile": compile}
    engine = engine_of(model, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = answers(engine)
    hidden = engine._stepper.hidden
    assert hidden.graphs.captured == len(hidden.shapes) > 4
    plain = engine_of(model, **{**settings, "cuda_graphs": False})
    plain._stepper.hidden = CompiledHidden(model, plain._stepper._store, compile=compile)
    wanted = answers(plain)
    if dtype == torch.float32:
        same(found, wanted)
    else:
        assert [ids[:3] for ids, _ in found] == [ids[:3] for ids, _ in wanted]
