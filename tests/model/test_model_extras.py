"""The options of the fastest models against a few lines that write them out."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from transformer_options import OPTIONS, V, ids_of, model_of

from langwright.base import UserError
from langwright.model import (
    Guide,
    ModelConfig,
    Transformer,
    attention_reference,
    build_model,
    model_config,
    parameter_count,
    preset_names,
    rotate,
    summary,
)

EXTRAS = ("residual_scalars", "value_embeddings", "smear", "backout")
TWO = torch.tensor([[0] * 5 + [1] * 7] * 3)  # documents of rows of 12 tokens


def plain_of(model: Transformer) -> Transformer:
    """The same weights without the options."""
    plain = Transformer(model.config.replace(**dict.fromkeys(EXTRAS, False))).eval()
    plain.to(model.tokens.weight.dtype).compute_dtype = model.compute_dtype
    plain.load_state_dict(model.state_dict(), strict=False)
    return plain


def reference(model: Transformer, ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """The final vectors, every option written out token by token and layer by layer."""
    plain, config = plain_of(model), model.config
    x = plain.embed(ids, torch.arange(ids.shape[1]))
    if config.smear:
        x = smeared(model, x, segments)
    first, half = x, None
    guides = plain.guides(torch.arange(ids.shape[1]), segments)
    for layer, block in enumerate(plain.blocks):
        if config.residual_scalars:
            own = model.blocks[layer].residual
            x = own.stream * x + own.skip * first
        if config.has_values(layer):
            inner = block.attention_norm(x)
            x = x + attention_with_values(model.blocks[layer].attention, inner, ids, guides[layer])
            x = x + block.feedforward(block.feedforward_norm(x))
        else:
            x = block(x, guides[layer])
        if layer == config.layers // 2:
            half = x
    if config.backout:
        x = x - model.backout.scale * half
    return plain.norm(x)


def smeared(model: Transformer, x: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    rows = []
    for row, documents in zip(x, segments, strict=True):
        out = [row[0]]
        for t in range(1, len(row)):
            gate = torch.sigmoid(model.smear.gate.weight[0] @ row[t, :24])
            same = float(documents[t] == documents[t - 1])
            out.append(row[t] + same * model.smear.scale * gate * row[t - 1])
        rows.append(torch.stack(out))
    return torch.stack(rows)


def attention_with_values(
    attention, x: torch.Tensor, ids: torch.Tensor, guide: Guide
) -> torch.Tensor:
    h = attention.head_width
    q, k, v = (part(x).unflatten(-1, (-1, h)) for part in (attention.q, attention.k, attention.v))
    added = []
    for head in range(k.shape[2]):
        gate = 3 * torch.sigmoid(x[..., :12] @ attention.values.gate.weight[head])  # (B, T)
        row = attention.values.table.weight[ids][..., head * h : (head + 1) * h]
        added.append(v[:, :, head] + gate[..., None] * row)
    q, k, v = (y.transpose(1, 2) for y in (q, k, torch.stack(added, dim=2)))
    q, k = attention.q_norm(q), attention.k_norm(k)
    q, k = (rotate(y, *guide.rotary) for y in (q, k))
    y = attention_reference(q, k, v, guide.mask)
    return attention.out(y.transpose(1, 2).flatten(2))


CASES = {name: {name: True} for name in EXTRAS} | {"all": dict.fromkeys(EXTRAS, True)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layers", [3, 4])
def test_each_equals_its_equation(name: str, layers: int) -> None:
    model = model_of({"qk_norm": True, "kv_heads": 2, "layers": layers, **CASES[name]})
    ids, plain = ids_of(), plain_of(model)
    for segments in (torch.zeros_like(TWO), TWO):
        for dtype, most in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
            model.to(dtype).compute_dtype = dtype
            wanted = reference(model, ids, segments)
            found = model.hidden(ids, segments=segments)
            assert found.dtype == dtype
            assert ((found - wanted).norm() / wanted.norm()).item() < most
    model.float().compute_dtype = torch.float32
    assert (model.hidden(ids) - plain.hidden(ids)).abs().max() > 1e-3  # it does something


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_equation(name: str) -> None:
    model = model_of({"qk_norm": True, "kv_heads": 2, "layers": 3, **CASES[name]}).double()
    model.compute_dtype = torch.float64
    ids, weights = ids_of(), torch.randn(3, 12, 24, dtype=torch.float64)
    (model.hidden(ids, segments=TWO) * weights).sum().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    own = {n: p for n, p in model.named_parameters() if is_extra(n)}

    def loss(**values: torch.Tensor) -> torch.Tensor:
        for key, value in values.items():
            dict(model.named_parameters())[key].data = value
        return (model.hidden(ids, segments=TWO) * weights).sum()

    assert own and set(own) <= set(found)
    for key, parameter in own.items():
        at, step = parameter.detach().clone(), 1e-6
        direction = torch.randn_like(at)
        with torch.no_grad():
            high, low = (loss(**{key: at + sign * step * direction}) for sign in (1, -1))
            loss(**{key: at})
        slope = (found[key] * direction).sum()
        assert slope.item() == pytest.approx(((high - low) / (2 * step)).item(), rel=1e-5, abs=1e-6)


def is_extra(name: str) -> bool:
    return name.startswith(("smear.", "backout.")) or ".residual." in name or ".values." in name


@torch.no_grad()
def test_neutral_factors_are_today_s_model_bit_for_bit() -> None:
    """And without the options nothing is there that was not there."""
    model = model_of({**OPTIONS["fastest"], "norm_affine": True})
    for name, parameter in model.named_parameters():
        if is_extra(name):
            parameter.fill_(1.0 if name.endswith("stream") else 0.0)
    plain = plain_of(model)
    assert torch.equal(model(ids_of(), segments=TWO), plain(ids_of(), segments=TWO))
    assert not any(map(is_extra, plain.state_dict()))
    assert all(guide.ids is None and guide.first is None for guide in plain.guides(torch.arange(3)))
    for name, value in plain_of(build_model(model.config, seed=4)).named_parameters():
        again = dict(build_model(plain.config, seed=4).named_parameters())[name]
        assert torch.equal(value, again), name  # the options change no other parameter's start


def test_the_smear_stops_at_documents() -> None:
    model = model_of({"smear": True, "layers": 1})
    ids = ids_of()
    other = ids.clone()
    other[:, 4] = (other[:, 4] + 1) % V  # the last token of the first document
    changed = model(ids, segments=TWO) - model(other, segments=TWO)
    assert changed[:, 4].abs().max() > 1e-3 and changed[:, 5:].abs().max() == 0
    x, y = model.embed(ids, torch.arange(12)), model.embed(other, torch.arange(12))
    assert (x - y)[:, 5].abs().max() > 1e-3  # one document: the next token takes it in


def test_where_they_stand_and_how_they_start() -> None:
    config = model_config({"preset": "langwright-fastest-1m"}, vocab_size=50)
    model = build_model(config)
    with_values = [block.attention.values is not None for block in model.blocks]
    assert with_values == [False, True, False, True]
    assert ModelConfig(
        **{**OPTIONS["fastest"], "vocab_size": 9, "width": 24, "heads": 4}
    ).has_values(0)
    stream = torch.stack([block.residual.stream[0] for block in model.blocks])
    skip = torch.stack([block.residual.skip[0] for block in model.blocks])
    torch.testing.assert_close(stream, torch.linspace(1.15, 1.05, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(skip, torch.linspace(0.20, 0.05, 4), atol=1e-6, rtol=0)
    assert model.backout.scale.item() == pytest.approx(0.2) and model.backout.layer == 2
    assert model.smear.scale.item() == 0.0 and model.smear.gate.weight.shape == (1, 24)
    values = model.blocks[1].attention.values
    assert values.gate.weight.abs().max() == 0 and values.gate.weight.shape == (4, 12)
    assert values.table.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)


def test_counts_and_words() -> None:
    table = {"preset": "langwright-fastest-10m"}
    config = model_config(table, vocab_size=1000)
    without = config.replace(**dict.fromkeys(EXTRAS, False))
    counts, before = parameter_count(config), parameter_count(without)
    with torch.device("meta"):
        model = Transformer(config)
    assert counts.total == sum(p.numel() for p in model.parameters())
    assert counts.values == 3 * 1000 * 384
    assert counts.mixing == 2 * 6 + 25 + 1
    assert counts.attention - before.attention == 3 * 12 * 6
    # Tables that are looked up cost no products: only gates and factors do.
    assert counts.non_embedding - before.non_embedding == 3 * 12 * 6 + 2 * 6 + 25 + 1
    text = summary(config)
    assert "residual scalars, value embeddings, smear, backout: only Langwright opens it" in text
    assert "1,152,000 of them value tables" in text
    assert "unexported" not in summary(without) and "mixing" not in summary(without)


def test_what_cannot_go_together_is_refused() -> None:
    latent = {"latent": {"kv_rank": 8, "rotary_width": 4}}
    with pytest.raises(UserError, match="latent attention keeps a latent vector"):
        ModelConfig.parse({"vocab_size": 9, "value_embeddings": True, **latent})
    with pytest.raises(UserError, match="before the final norm"):
        ModelConfig.parse({"vocab_size": 9, "backout": True, "norm_placement": "post"})
    with pytest.raises(ValidationError):
        ModelConfig(vocab_size=9, backout=True, norm_placement="post")


def test_narrow_models_have_narrow_gates() -> None:
    table = {"vocab_size": 9, "width": 8, "layers": 1, "heads": 2, **dict.fromkeys(EXTRAS, True)}
    model = build_model(ModelConfig(**table))
    assert model.smear.gate.in_features == model.blocks[0].attention.values.gate.in_features == 8
    assert parameter_count(model.config).total == sum(p.numel() for p in model.parameters())
    assert model(torch.tensor([[1, 2, 3]])).isfinite().all()


def test_the_presets_stand_beside_the_fast_ones() -> None:
    names = preset_names()
    for name in (n for n in names if n.startswith("langwright-fast-")):
        fast = model_config({"preset": name})
        fastest = model_config({"preset": name.replace("fast-", "fastest-")})
        assert fastest.unexported == EXTRAS and fast.unexported == ()
        assert (fast.width, fast.layers, fast.heads) == (
            fastest.width,
            fastest.layers,
            fastest.heads,
        )
