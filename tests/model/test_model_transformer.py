"""The whole model: causal, documents apart, cached decoding exact, every option wired."""

from __future__ import annotations

import pytest
import torch
from transformer_options import (
    ALONE,
    BASE,
    OPTIONS,
    V,
    cache_of,
    exact_of,
    ids_of,
    model_of,
)

from langwright.base import UserError
from langwright.model import (
    ModelConfig,
    attention_reference,
    build_model,
    model_config,
)
from langwright.optim import parameter_kinds


@pytest.mark.parametrize("name", OPTIONS)
class TestEveryOption:
    def test_equals_reference_attention(self, name, monkeypatch):
        model, ids = model_of(OPTIONS[name]), ids_of(t=24)  # enough for the CPU's sliced form
        segments = torch.tensor([[0] * 5 + [1] * 19, [0] * 24, [0] * 2 + [1] * 13 + [-1] * 9])
        fused = [model(ids), model(ids, segments=segments)]
        monkeypatch.setattr("langwright.model.attention.attend", attention_reference)
        written = [model(ids), model(ids, segments=segments)]
        for a, b in zip(fused, written, strict=True):
            assert b.std() > 0.5
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)

    def test_no_token_sees_a_later_one(self, name):
        model, ids = model_of(OPTIONS[name]), ids_of()
        changed = ids.clone()
        changed[:, 7] = (changed[:, 7] + 1) % V
        before, after = model(ids), model(changed)
        torch.testing.assert_close(before[:, :7], after[:, :7], atol=1e-6, rtol=0)
        reach = 12
        if not any(model.config.is_local(i) is False for i in range(2)):
            reach = 7 + 2 * (model.config.window - 1) + 1  # two layers of a window
        assert (before[:, 7:reach] - after[:, 7:reach]).abs().amax(dim=(0, 2)).min() > 1e-3
        torch.testing.assert_close(before[:, reach:], after[:, reach:], atol=1e-6, rtol=0)

    def test_documents_in_a_row_equal_documents_alone(self, name):
        model = model_of(OPTIONS[name])
        one, two, three = ids_of(1, 5, 1), ids_of(1, 3, 2), ids_of(1, 9, 3)
        row = torch.cat((one, two, three, torch.zeros(1, 2, dtype=torch.int64)), dim=1)
        segments = torch.tensor([[0] * 5 + [1] * 3 + [2] * 9 + [-1] * 2])
        positions = torch.tensor([[*range(5), *range(3), *range(9), 0, 0]])
        together = model(row, segments=segments, positions=positions)[:, :17]
        alone = torch.cat([model(x) for x in (one, two, three)], dim=1)
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-5)

    def test_cached_decoding_is_exact(self, name):
        model, ids = exact_of(OPTIONS[name]), ids_of()
        cache = cache_of(model, 16)
        start = 0
        for count in (4, 1, 1, 3, 1, 2):  # a prompt, single tokens, and several at once
            logits = model(ids[:, start : start + count], cache=cache)
            cache.advance(count)
            start += count
            whole = model(ids[:, :start])[:, -count:]
            torch.testing.assert_close(logits, whole, atol=1e-10, rtol=1e-9)
        assert cache.lengths.tolist() == [12, 12, 12]

    def test_cached_ragged_batch_is_exact(self, name):
        """Right-padded prompts of unequal lengths, then single tokens, beside each row alone."""
        model, rows = exact_of(OPTIONS[name]), [ids_of(1, n, n)[0] for n in (3, 7, 5)]
        cache = cache_of(model, 20)
        padded = torch.zeros(3, 7, dtype=torch.int64)
        for b, row in enumerate(rows):
            padded[b, : len(row)] = row
        counts = torch.tensor([3, 7, 5])
        logits = model(padded, cache=cache, counts=counts)
        cache.advance(counts)
        for b, row in enumerate(rows):
            torch.testing.assert_close(
                logits[b, : len(row)], model(row[None])[0], atol=1e-10, rtol=1e-9
            )
        for step in range(4):
            new = ids_of(3, 1, 100 + step)
            logits = model(new, cache=cache)
            cache.advance(1)
            rows = [torch.cat((row, new[b])) for b, row in enumerate(rows)]
            for b, row in enumerate(rows):
                torch.testing.assert_close(
                    logits[b, -1], model(row[None])[0, -1], atol=1e-10, rtol=1e-9
                )

    def test_bf16_is_close(self, name):
        model, ids = model_of(OPTIONS[name]), ids_of(2, 40)
        exact = model(ids)
        model.compute_dtype = torch.bfloat16
        low = model(ids)
        assert low.dtype == torch.float32
        assert ((low - exact).norm() / exact.norm()).item() < 0.05

    def test_every_parameter_learns(self, name):
        model = model_of(OPTIONS[name])
        loss, count = model.loss(ids_of(), ids_of(seed=6), chunk_tokens=10)
        (loss / count).backward()
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("attention.k.bias") and model.config.position != "rotary":
                continue  # shifts all scores of a query alike: no effect, no gradient
            if name == "window-of-one" and parameter_name.startswith(ALONE):
                continue  # a token that sees only itself has nothing to weigh
            assert parameter.grad.abs().max() > 1e-7, parameter_name


def test_dropout_rates_are_separate_and_for_training_only():
    """Fact F13: each rate alone changes training, none changes evaluation."""
    ids = ids_of()
    for name in ("dropout_embedding", "dropout_attention", "dropout_residual"):
        model = model_of({name: 0.5})
        plain = model_of()(ids)
        torch.testing.assert_close(model(ids), plain)
        model.train()
        assert not torch.allclose(model(ids), plain, atol=1e-2), name
    assert model_of().train().training
    torch.testing.assert_close(model_of().train()(ids), model_of()(ids))


def test_tied_head_is_one_tensor():
    """Facts G5, X28: tying shares the parameter, it does not copy it."""
    tied, untied = model_of(tied=True), model_of(tied=False)
    assert tied.head_weight is tied.tokens.weight and tied.head is None
    assert (
        sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters())
        == V * BASE["width"]
    )
    with torch.no_grad():
        tied.tokens.weight[3] += 1.0
    assert torch.equal(tied.head_weight[3], tied.tokens.weight[3])


def test_the_ends_of_the_model():
    """Embeddings are multiplied before positions are added and normed after; logits are bent."""
    model = model_of(
        {"embedding_scale": 3.0, "embedding_norm": True, "position": "learned"},
        logit_softcap=2.0,
        head_bias=True,
        norm="layernorm",
    )
    ids = ids_of(2, 5)
    x = 3.0 * model.tokens.weight[ids] + model.positions.weight[:5]
    torch.testing.assert_close(model.embed(ids, torch.arange(5)), model.embedding_norm(x))
    z = model.hidden(ids) @ model.tokens.weight.T + model.head_bias
    torch.testing.assert_close(model(ids), 2.0 * torch.tanh(z / 2.0))


def test_positions_make_the_order_matter():
    ids = ids_of(1, 6)
    swapped = ids[:, [1, 0, 2, 3, 4, 5]]
    for position, matters in (("none", False), ("rotary", True), ("learned", True)):
        model = model_of({"position": position, "layers": 1})
        difference = (model(ids)[0, -1] - model(swapped)[0, -1]).abs().max()
        assert (difference > 1e-3) == matters, position


def test_initialisation():
    """Facts G6, V31, and (seed, name) alone decides each parameter."""
    config = model_config({"preset": "gpt2-124m", "layers": 2, "vocab_size": 500})
    model = build_model(config, seed=3)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (1.0 if name.endswith("norm.weight") else 0.0)).all(), name
            continue
        residual = name.endswith(("out.weight", "down.weight"))
        expected = 0.02 / (2 * 2) ** 0.5 if residual else 0.02
        assert parameter.std().item() == pytest.approx(expected, rel=0.02), name
        assert abs(parameter.mean().item()) < expected * 0.02, name
    deeper = build_model(config.replace(layers=3, init_std=0.02), seed=3)
    assert torch.equal(
        model.blocks[1].attention.q.weight, deeper.blocks[1].attention.q.weight
    )  # another layer changes no other parameter
    other = build_model(config, seed=4)
    assert not torch.equal(model.tokens.weight, other.tokens.weight)
    assert pytest.approx(0.00408, abs=5e-6) == 0.02 / (2 * 12) ** 0.5
    assert pytest.approx(0.00204, abs=5e-6) == 0.02 / (2 * 48) ** 0.5


def test_modern_initialisation_starts_as_the_identity():
    model = build_model(model_config({"preset": "langwright-fast-1m", "vocab_size": 100}), seed=1)
    x = model.embed(torch.randint(0, 100, (2, 20)), torch.arange(20))
    assert torch.equal(model.blocks[2](x, model.guides(torch.arange(20))[2]), x)
    for weight in (model.blocks[0].attention.q.weight, model.head.weight):
        assert weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert model.tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_shapes_of_the_book():
    """Facts V9, F14, D8: (8, 4) ids -> (8, 4, 256) -> blocks keep the shape."""
    model = build_model(
        ModelConfig(
            vocab_size=50, context_length=4, width=256, layers=1, heads=4, position="learned"
        )
    )
    x = model.embed(torch.randint(0, 50, (8, 4)), torch.arange(4))
    assert x.shape == (8, 4, 256)
    assert model.blocks[0](x).shape == (8, 4, 256)


@pytest.mark.parametrize(
    "ids,options,words",
    [
        (torch.zeros(0, 4, dtype=torch.int64), {}, ["no tokens", "(0, 4)"]),
        (torch.zeros(2, 0, dtype=torch.int64), {}, ["no tokens"]),
        (torch.zeros(4, dtype=torch.int64), {}, ["batch"]),
        (torch.full((1, 3), V), {}, ["vocabulary", str(V), f"0 ... {V - 1}"]),
        (torch.full((1, 3), -1), {}, ["vocabulary", "-1"]),
        (torch.zeros(1, 65, dtype=torch.int64), {"position": "learned"}, ["65", "64"]),
    ],
)
def test_bad_ids_are_told(ids, options, words):
    with pytest.raises(UserError) as error:
        model_of(options)(ids)
    for word in words:
        assert word in str(error.value)


def test_blocks_compile_whole():
    """Each block is one graph: no breaks, and the same numbers."""
    ids = ids_of(4, 32)
    for name, dtype in (
        ("plain", torch.float32),
        ("everything", torch.bfloat16),
        ("relative", torch.float32),
        ("latent", torch.bfloat16),
    ):
        model = model_of({**OPTIONS[name], "qk_norm": name != "latent"})
        model.compute_dtype = dtype
        x, guide = model.embed(ids, torch.arange(32)), model.guides(torch.arange(32))[0]
        eager = model.blocks[0](x, guide)
        compiled = torch.compile(model.blocks[0], fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, guide), eager, atol=0.05, rtol=0.05)
        compiled(x, guide).float().sum().backward()


def test_large_batches_take_the_sliced_norm():
    """The CPU's RMSNorm in slices equals the formula, gradients too."""
    from langwright.model.sliced_norm import sliced_rms_norm

    x = torch.randn(3, 700, 96, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(96, dtype=torch.float64, requires_grad=True)
    for w in (weight, None):
        mine = sliced_rms_norm(x, w, 1e-3)
        formula = x * (x.square().mean(-1, keepdim=True) + 1e-3).rsqrt() * (1.0 if w is None else w)
        torch.testing.assert_close(mine, formula, atol=1e-12, rtol=1e-10)
        inputs = [x] if w is None else [x, w]
        for a, b in zip(
            torch.autograd.grad(mine.sin().sum(), inputs),
            torch.autograd.grad(formula.sin().sum(), inputs),
            strict=True,
        ):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_a_learned_bias_is_a_table_to_the_optimizer():
    kinds = parameter_kinds(model_of({"position": "relative", "qkv_bias": True}))
    assert kinds["blocks.0.attention.bias"] == "embedding"
    assert kinds["blocks.0.attention.q.bias"] == "scalar"
