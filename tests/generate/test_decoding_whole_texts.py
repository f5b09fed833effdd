"""Contrastive search, guidance, contrastive decoding, several answers, scores of a given text."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from langwright.base import UserError
from langwright.formats import save_model
from langwright.generate import (
    SamplingParams,
    Source,
    choose_best,
    contrast_logits,
    contrastive_search,
    fan_out,
    generate_guided,
    generate_several,
    generate_tokens,
    guide_logits,
    score_tokens,
)
from langwright.generate.output import Completion

GREEDY = SamplingParams(temperature=0.0, max_tokens=15)


def contrastive_by_hand(model, prompt: list[int], k: int, alpha: float, steps: int) -> list[int]:
    """Su et al., equation 5: every candidate's text through the whole model, no cache."""
    ids = list(prompt)
    model.eval()
    for _ in range(steps):
        with torch.no_grad():
            chances, tokens = model(torch.tensor([ids]))[0, -1].softmax(-1).topk(k)
            scores = []
            for chance, token in zip(chances.tolist(), tokens.tolist(), strict=True):
                hidden = model.hidden(torch.tensor([[*ids, token]]))[0]
                alike = F.cosine_similarity(hidden[-1:], hidden[:-1], dim=-1).max().item()
                scores.append((1 - alpha) * chance - alpha * alike)
        ids.append(tokens[scores.index(max(scores))].item())
    return ids[len(prompt) :]


@pytest.mark.parametrize(("k", "alpha"), [(4, 0.6), (2, 0.3), (8, 1.0)])
@pytest.mark.parametrize("changes", [{}, {"window": 6}])
def test_contrastive_search_by_hand(tiny_model, k: int, alpha: float, changes: dict) -> None:
    model = tiny_model(**changes)
    for prompt in ([1, 2, 3], [4], [7, 7, 7, 7, 7, 7, 7, 7]):
        found = contrastive_search(model, prompt, k=k, alpha=alpha, max_tokens=12)
        assert found == contrastive_by_hand(model, prompt, k, alpha, 12)


def test_contrastive_search_without_penalty_is_greedy(tiny_model) -> None:
    model = tiny_model()
    greedy = generate_tokens(model, [[1, 2]], GREEDY, [7])[0].ids
    assert contrastive_search(model, [1, 2], k=5, alpha=0.0, max_tokens=15, stop_ids=[7]) == greedy
    assert contrastive_search(model, [1, 2], k=1, alpha=0.9, max_tokens=15, stop_ids=[7]) == greedy
    assert contrastive_search(model, [1, 2], k=5, alpha=0.9, max_tokens=15, stop_ids=[7]) != greedy
    with pytest.raises(UserError, match="alpha"):
        contrastive_search(model, [1], alpha=1.5)


def test_guidance_is_that_of_transformers(tiny_model, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.generation.logits_process import (
        UnbatchedClassifierFreeGuidanceLogitsProcessor as Theirs,
    )

    ours = tiny_model(dropout_residual=0.0)
    save_model(tmp_path, ours)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompt, negative, scale = [1, 2, 3], [9, 8], 1.8
    out = theirs.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 3, dtype=torch.int64),
        max_new_tokens=15,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        logits_processor=[
            Theirs(
                scale,
                theirs,
                unconditional_ids=torch.tensor([negative]),
                unconditional_attention_mask=torch.ones(1, 2, dtype=torch.int64),
            )
        ],
    )[0, 3:].tolist()
    done = generate_guided(
        Source(ours, prompt), Source(ours, negative), lambda c, u: guide_logits(c, u, scale), GREEDY
    )
    assert done.ids == out
    assert done.ids != generate_tokens(ours, [prompt], GREEDY)[0].ids


def test_guidance_at_its_ends() -> None:
    wanted, other = torch.randn(2, 1, 9)
    for scale, expected in ((1.0, wanted), (0.0, other)):
        found = guide_logits(wanted, other, scale).softmax(-1)
        torch.testing.assert_close(found, expected.softmax(-1))


def test_scale_one_is_the_plain_text_with_its_draws(tiny_model) -> None:
    model = tiny_model()
    params = SamplingParams(temperature=0.8, max_tokens=12, logprobs=0, repetition_penalty=1.1)
    plain = generate_tokens(model, [[1, 2]], params, [7], seeds=[5])[0]
    found = generate_guided(
        Source(model, [1, 2]),
        Source(model, [3]),
        lambda c, u: guide_logits(c, u, 1.0),
        params,
        [7],
        seed=5,
    )
    assert found.ids == plain.ids
    assert found.logprobs == pytest.approx(plain.logprobs, abs=1e-4)


def test_contrastive_decoding_by_hand(tiny_model) -> None:
    expert = torch.tensor([[3.0, 2.9, 1.0, -4.0]])
    amateur = torch.tensor([[3.0, 0.0, 1.0, -9.0]])
    found = contrast_logits(expert, amateur, beta=1.0, plausible=0.1)
    assert found[0, :3].tolist() == pytest.approx([3.0, 5.8, 1.0])
    assert found[0, 3] == -torch.inf  # e^-7 of the likeliest, whatever the amateur says
    assert contrast_logits(expert, amateur, beta=1.0, plausible=0.2)[0, 2] == -torch.inf  # e^-2
    large, small = tiny_model(), tiny_model(layers=1)
    done = generate_guided(Source(large, [1, 2]), Source(small, [1, 2]), contrast_logits, GREEDY)
    ids = [1, 2]
    for model in (large, small):
        model.eval()
    for token in done.ids:
        with torch.no_grad():
            pair = [model(torch.tensor([ids]))[:, -1] for model in (large, small)]
        assert contrast_logits(*pair).argmax().item() == token
        ids.append(token)


def test_sources_must_fit(tiny_model) -> None:
    with pytest.raises(UserError, match="vocabular"):
        generate_guided(
            Source(tiny_model(), [1]),
            Source(tiny_model(vocab_size=17), [1]),
            contrast_logits,
            GREEDY,
        )
    with pytest.raises(UserError, match="prompt"):
        generate_guided(
            Source(tiny_model(), [1]), Source(tiny_model(), []), contrast_logits, GREEDY
        )


def test_the_first_of_several_is_the_only_one(tiny_model) -> None:
    model = tiny_model()
    one = SamplingParams(temperature=1.5, max_tokens=10, seed=3)
    prompts = [[1, 2], [5]]
    alone = generate_tokens(model, prompts, one)
    several = generate_several(model, prompts, one.replace(n=4))
    assert [answers[0] for answers in several] == alone
    assert all(len({tuple(one.ids) for one in answers}) == 4 for answers in several)
    assert several == generate_several(model, prompts, one.replace(n=4))
    unseeded = generate_several(model, [[1]], one.replace(n=4, seed=None))[0]
    assert len({tuple(one.ids) for one in unseeded}) == 4


def test_best_of_takes_the_likeliest_per_token(tiny_model) -> None:
    model = tiny_model()
    params = SamplingParams(temperature=1.5, max_tokens=10, seed=3, n=6)
    drawn = generate_several(model, [[1, 2]], params.replace(logprobs=0), [7])[0]
    best = generate_several(model, [[1, 2]], params.replace(n=2, best_of=6), [7])[0]

    def mean(answer: Completion) -> float:
        ids = answer.ids if answer.stop_id is None else [*answer.ids, answer.stop_id]
        scores = score_tokens(model, [1, 2, *ids])[2:]
        return sum(one.logprob for one in scores if one) / len(ids)

    ranked = sorted(drawn, key=mean, reverse=True)
    assert [one.ids for one in best] == [one.ids for one in ranked[:2]]


def test_fan_out_and_choice() -> None:
    params = SamplingParams(n=2, best_of=3, seed=8)
    children = fan_out(params)
    assert [(one.n, one.best_of, one.logprobs) for one in children] == [(1, None, 0)] * 3
    assert children[0].seed == 8
    assert len({one.seed for one in children}) == 3
    assert fan_out(SamplingParams(n=2))[1].logprobs is None
    short = Completion(ids=[1], logprobs=[-1.0])
    long = Completion(ids=[1, 2], logprobs=[-0.8, -0.8])
    assert choose_best([short, long], 1) == [long]  # a sum would prefer the short one
    assert choose_best([short, long], 2) == [short, long]


def test_several_are_not_given_silently_as_one(tiny_model) -> None:
    with pytest.raises(UserError, match="generate_several"):
        generate_tokens(tiny_model(), [[1]], SamplingParams(n=2))


def test_scores_of_a_text(tiny_model, monkeypatch) -> None:
    """Equal to the plain forward, also in chunks, and to the log-probabilities while drawing."""
    monkeypatch.setattr("langwright.generate.decoding.scores.CHUNK", 4)
    model = tiny_model()
    params = SamplingParams(temperature=1.2, max_tokens=20, seed=1, logprobs=3)
    done = generate_tokens(model, [[1, 2, 3]], params)[0]
    ids = [1, 2, 3, *done.ids]
    scores = score_tokens(model, ids, top=3)
    with torch.no_grad():
        model.eval()
        own = model(torch.tensor([ids]))[0].log_softmax(-1)
    assert scores[0] is None
    for place, one in enumerate(scores[1:]):
        assert one is not None
        assert one.logprob == pytest.approx(own[place, ids[place + 1]].item(), abs=1e-5)
        assert [token for token, _ in one.top] == own[place].topk(3).indices.tolist()
    drawn = [one.logprob for one in scores[3:] if one]
    assert done.logprobs == pytest.approx(drawn, abs=1e-4)
    tops = [one.top for one in scores[3:] if one]
    assert [[t for t, _ in top] for top in done.top_logprobs] == [
        [t for t, _ in top] for top in tops
    ]
    assert score_tokens(model, [5]) == [None]
    with pytest.raises(UserError, match="longer"):
        score_tokens(model, [1] * 49)
