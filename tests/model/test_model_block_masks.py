"""FlexAttention's mask made from the edges of blocks: torch's own, without its (T, S) tensor; and a
model on it, compiled block by block, while documents change with every batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as torchs
from torch.utils._python_dispatch import TorchDispatchMode

from langwright.model import (
    ModelConfig,
    attend,
    attention_kernels,
    attention_reference,
    build_guides,
    build_model,
    causal_mask,
    document_mask,
)
from langwright.model.attention_kernels import dense_mask, sdpa
from langwright.model.masks import BLOCK, block_mask

CPU = torch.device("cpu")
PARTS = ("kv_num_blocks", "kv_indices", "q_num_blocks", "q_indices")

pytestmark = pytest.mark.filterwarnings("ignore:.*flex_attention")


def documents(batch: int, length: int, most: int, seed: int) -> torch.Tensor:
    """int32 (B, S): each row of its own number of documents at random places, as packing numbers
    them; the last part of some rows is padding."""
    made = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(batch):
        count = int(torch.randint(1, most + 1, (), generator=made))
        row = torch.randint(0, count, (length,), generator=made).sort().values
        if count > 1 and torch.rand((), generator=made) < 0.5:
            row[row == count - 1] = -1
        rows.append(row)
    return torch.stack(rows).int()


def written_out(t, s, window, segments):
    """The mask as bool (1 or B, 1, T, S)."""
    mask = causal_mask(t, s, window=window)[None, None]
    return mask if segments is None else mask & document_mask(segments, s - t)


@settings(max_examples=70, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 700),
    st.sampled_from([0, 128]) | st.integers(0, 300),
    st.sampled_from([None, 1, 5, 127, 128, 129, 300]),
    st.sampled_from([0, 1, 3, 12, 200]),
    st.integers(0, 10**6),
)
@example(1, 500, 0, 1, 0, 0)  # windows that end at the edge of a block, and beside it
@example(1, 500, 0, 129, 0, 0)
@example(2, 500, 0, 255, 1, 0)
@example(1, 500, 0, 256, 0, 0)
def test_block_mask_equals_torchs(batch, t, before, window, most, seed):
    s = t + before
    segments = documents(batch, s, most, seed) if most else None
    mine = block_mask(t, s, window, segments, CPU)
    rows = None if segments is None else batch
    theirs = torchs.create_block_mask(mine.mask_mod, rows, None, t, s, device="cpu")
    assert mine.shape == theirs.shape and mine.BLOCK_SIZE == theirs.BLOCK_SIZE == (BLOCK, BLOCK)
    for part in PARTS:
        for name in (part, f"full_{part}"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
            assert getattr(mine, name).dtype == torch.int32
    assert torch.equal(mine.to_dense(), theirs.to_dense())
    assert torch.equal(dense_mask(mine, t, s, CPU), written_out(t, s, window, segments))


def test_documents_that_come_back_are_seen_again():
    """No packing makes such rows. Their mask holds what torch's holds, and more blocks to look at;
    other rows have no more than they need."""
    back = torch.tensor([[7] * 200 + [3] * 200 + [7] * 200])
    plain = torch.tensor([[0] * 200 + [1] * 200 + [2] * 200])
    both = torch.cat((back, plain))
    mine = block_mask(600, 600, None, both, CPU)
    theirs = torchs.create_block_mask(mine.mask_mod, 2, None, 600, 600, device="cpu")
    missing = theirs.to_dense().bool() & ~mine.to_dense().bool()
    assert not missing.any() and mine.to_dense()[0].sum() == 15
    assert torch.equal(mine.to_dense()[1], theirs.to_dense()[1])
    assert torch.equal(mine.full_kv_num_blocks, theirs.full_kv_num_blocks)
    q, k, v = (torch.randn(2, 2, 600, 16) for _ in range(3))
    with torch.no_grad():
        found = attend(q, k, v, None, blocks=mine)
    torch.testing.assert_close(found, attend(q, k, v, document_mask(both)), atol=5e-6, rtol=1e-4)
    assert document_mask(both)[0, 0, 599, 0] and not document_mask(both)[1, 0, 599, 0]


class Watch(TorchDispatchMode):
    """The largest tensor made, and what was called."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.add(function.overloadpacket.__name__)
        made = result if isinstance(result, tuple | list) else [result]
        sizes = [x.untyped_storage().nbytes() for x in made if isinstance(x, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


def test_no_square_of_tokens_stands_and_nobody_waits():
    segments = documents(2, 4096, 9, seed=1)
    with Watch() as watch:
        block_mask(4096, 4096, 300, segments, CPU)
    assert watch.largest <= 2 * 4096 * 8  # bytes: one int64 for each token; the square is 33 MB
    waiting = {"_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero"}
    assert not watch.names & waiting


@pytest.fixture
def on_cuda(monkeypatch):
    """Kernels as on CUDA; torch's check that a CPU has no gradients of its compiled form aside."""
    usual = attention_kernels.choose_kernel
    monkeypatch.setattr(
        attention_kernels, "choose_kernel", lambda _, *rest, **more: usual("cuda", *rest, **more)
    )
    monkeypatch.setattr(torchs, "_validate_device", lambda *_: None)


@pytest.mark.parametrize("t", [256, 300])
@pytest.mark.parametrize("window", [None, 90])
@pytest.mark.parametrize("groups", [1, 2])
def test_flex_equals_sdpa_with_gradients(on_cuda, t, window, groups):
    torch.manual_seed(t)
    segments = documents(2, 300, 5, seed=t)
    q = torch.randn(2, 4, t, 16, requires_grad=True)
    k, v = (torch.randn(2, 4 // groups, 300, 16, requires_grad=True) for _ in range(2))
    weights = torch.randn(2, 4, t, 16)
    options = {"scale": None, "sinks": None}
    mask = written_out(t, 300, window, segments)
    dense = sdpa(q, k, v, mask, 0.0, bias=None, window=window, **options)
    blocks = block_mask(t, 300, window, segments, CPU)
    mine = attention_kernels.flex(q, k, v, blocks, softcap=None, **options)
    torch.testing.assert_close(mine, dense, atol=2e-6, rtol=1e-5)
    grads = [torch.autograd.grad((y * weights).sum(), (q, k, v)) for y in (mine, dense)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


MIXED = {"width": 32, "heads": 2, "layers": 2, "window": 70, "reach": ("local", "global")}


def loss_and_gradients(model, segments):
    ids = torch.arange(segments.numel()).view(segments.shape) * 7 % 50
    model.zero_grad()
    loss, count = model.loss(ids, ids.roll(-1, 1), segments=segments)
    (loss / count).backward()
    return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


def test_compiled_blocks_take_new_documents_without_compiling_again(request):
    """As train/compiling.py compiles them; what is compiled anew, and when, does not depend on the
    compiler's backend, so torch's plain one stands in for the one that a GPU has."""
    config = ModelConfig(vocab_size=50, context_length=300, **MIXED)
    model = build_model(config, seed=1)
    batches = [documents(2, 300, 6, seed) for seed in range(3)]
    expected = [loss_and_gradients(model, batch) for batch in batches]  # dense masks, sdpa
    request.getfixturevalue("on_cuda")
    compiled = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    for block in model.blocks:
        block.compile(fullgraph=True, dynamic=False, backend=compiled)
    forms = []
    for batch, want in zip(batches, expected, strict=True):
        found = loss_and_gradients(model, batch)
        forms.append(compiled.frame_count)
        for a, b in zip(found, want, strict=True):
            assert (a - b).norm() < 1e-5 * b.norm().clamp(min=1e-4)
    assert forms == [2] * 3  # local and global layers


def test_layers_of_a_kind_share_one_mask(on_cuda):
    turned = (True, True, False, False)
    config = ModelConfig(
        vocab_size=50, context_length=300, rotary_layers=turned, **{**MIXED, "layers": 4}
    )
    model = build_model(config, seed=1)
    guides = model.guides(torch.arange(300), documents(2, 300, 6, seed=0))
    assert all(guide.mask is None for guide in guides)
    assert {guide.window for guide in guides} == {70, None}
    assert len({id(guide) for guide in guides}) == 4 and len({id(g.blocks) for g in guides}) == 2
    whole = model.guides(torch.arange(300))
    assert [guide.blocks is None for guide in whole] == [False, True, False, True]


@pytest.mark.parametrize("run", [(0, 300), (150, 300), (256, 600)])
def test_later_queries_need_no_mask_of_all_pairs(on_cuda, run):
    """Those of a process of a context-parallel group, in rows of one document."""
    first, end = run
    config = ModelConfig(vocab_size=50, context_length=600, width=32, heads=2, layers=1)
    dtype = torch.float32
    (guide,) = build_guides(config, torch.arange(600), dtype=dtype, queries=run)
    assert guide.mask is None and (guide.blocks is None) == (first == 0)
    torch.manual_seed(first)
    q = torch.randn(2, 2, end - first, 16, requires_grad=True)
    k, v = (torch.randn(2, 2, end, 16, requires_grad=True) for _ in range(2))
    weights = torch.randn(2, 2, end - first, 16)
    found = attend(q, k, v, guide.mask, blocks=guide.blocks)
    expected = attention_reference(q, k, v, None)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    grads = [torch.autograd.grad((y * weights).sum(), (q, k, v)) for y in (found, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_flex_is_compiled_where_blocks_are_not(monkeypatch):
    """Evaluation in training lets compiled things run uncompiled, see train/compiling.py."""
    counted = torch._dynamo.testing.CompileCounterWithBackend("eager")
    usual = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **more: usual(f, backend=counted, **more))
    attention_kernels._compiled_flex.cache_clear()
    run = attention_kernels._compiled_flex()
    attention_kernels._compiled_flex.cache_clear()
    q, k, v = (torch.randn(1, 2, 256, 16) for _ in range(3))
    blocks = block_mask(256, 256, None, documents(1, 256, 3, seed=0), CPU)
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        found = run(q, k, v, block_mask=blocks)
    assert counted.frame_count == 1
    mask = dense_mask(blocks, 256, 256, CPU)
    torch.testing.assert_close(found, attend(q, k, v, mask), atol=5e-6, rtol=1e-4)
