"""Beam search against Transformers, against all texts there are, and by hand for its groups."""

from __future__ import annotations

import itertools

import pytest
import torch

from langwright.base import UserError
from langwright.formats import save_model
from langwright.generate import BeamParams, SamplingParams, beam_search, generate_tokens
from langwright.model import Transformer


def text_logprob(model: Transformer, prompt: list[int], ids: list[int]) -> float:
    """Log-probability of `ids` behind `prompt` by one plain forward."""
    with torch.no_grad():
        model.eval()
        logits = model(torch.tensor([prompt + ids]))[0].double()
    places = range(len(prompt) - 1, len(prompt) + len(ids) - 1)
    return sum(logits[p].log_softmax(-1)[t].item() for p, t in zip(places, ids, strict=True))


def all_texts(model: Transformer, prompt: list[int], stop: int, most: int) -> dict:
    """Every text up to `most` tokens that ends with `stop` or is cut, with its log-probability."""
    vocab = model.config.vocab_size
    found = {}
    for length in range(1, most + 1):
        for text in itertools.product(range(vocab), repeat=length):
            ended = text[-1] == stop
            if stop in text[:-1] or not (ended or length == most):
                continue
            found[text] = text_logprob(model, prompt, list(text))
    return found


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_of_all_texts_finds_the_best(tiny_model, length_penalty: float) -> None:
    model = tiny_model(vocab_size=4)
    texts = all_texts(model, [1], stop=0, most=4)
    ranked = sorted(texts, key=lambda text: -texts[text] / len(text) ** length_penalty)
    params = BeamParams(beams=64, n=3, max_tokens=4, length_penalty=length_penalty)
    for expected, found in zip(ranked[:3], beam_search(model, [1], params, [0]), strict=True):
        ended = expected[-1] == 0
        assert found.ids == list(expected[:-1] if ended else expected)
        assert found.stop_id == (0 if ended else None)
        assert found.logprob == pytest.approx(texts[expected], abs=1e-4)
        assert found.score == pytest.approx(
            texts[expected] / len(expected) ** length_penalty, abs=1e-4
        )


def test_one_beam_is_greedy(tiny_model) -> None:
    model = tiny_model()
    greedy = SamplingParams(temperature=0.0, max_tokens=20)
    for prompt in ([1, 2, 3], [4]):
        found = beam_search(model, prompt, BeamParams(beams=1, max_tokens=20), [7])[0]
        assert found.ids == generate_tokens(model, [prompt], greedy, [7])[0].ids


def test_a_wider_beam_is_never_less_likely_than_greedy_here(tiny_model) -> None:
    model = tiny_model()
    best = [
        beam_search(model, [1, 2], BeamParams(beams=b, max_tokens=12, length_penalty=0.0))[
            0
        ].logprob
        for b in (1, 4, 16)
    ]
    assert best[0] <= best[1] <= best[2]
    assert best[0] < best[2]


@pytest.mark.parametrize("length_penalty", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 5])
def test_beams_are_those_of_transformers(
    tiny_model, tmp_path, beams: int, length_penalty: float
) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tiny_model(dropout_residual=0.0)
    save_model(tmp_path, ours)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for prompt in ([1, 2, 3], [4], [9, 8, 7, 6], [5, 5], [2, 7, 2], [11], [12, 0], [15, 3, 14]):
        params = BeamParams(beams=beams, n=beams, max_tokens=12, length_penalty=length_penalty)
        found = beam_search(ours, prompt, params, [5, 7])
        out = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=12,
            do_sample=False,
            length_penalty=length_penalty,
            eos_token_id=[5, 7],
            pad_token_id=0,
            early_stopping=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        expected = []
        for sequence in out.sequences[:, len(prompt) :].tolist():
            end = next((i for i, token in enumerate(sequence) if token in (5, 7)), len(sequence))
            expected.append(sequence[:end])
        assert [one.ids for one in found] == expected
        scores = [one.score for one in found]
        assert scores == pytest.approx(out.sequences_scores.tolist(), abs=1e-4)


def diverse_by_hand(model, prompt, beams, groups, strength, steps):
    """Vijayakumar et al.: group after group, Hamming diversity, no end token, no cache."""
    size = beams // groups
    state = [[((), 0.0, 0.0)] for _ in range(groups)]  # (ids, log-probability, penalised)
    for _ in range(steps):
        came: dict[int, int] = {}
        for number in range(groups):
            options = []
            for ids, total, score in state[number]:
                with torch.no_grad():
                    model.eval()
                    logits = model(torch.tensor([prompt + list(ids)]))[0, -1].double()
                for token, value in enumerate(logits.log_softmax(-1).tolist()):
                    penalty = strength * came.get(token, 0)
                    options.append(((*ids, token), total + value, score + value - penalty))
            options.sort(key=lambda option: -option[2])
            state[number] = options[:size]
            for ids, _, _ in state[number]:
                came[ids[-1]] = came.get(ids[-1], 0) + 1
    return sorted((one for group in state for one in group), key=lambda one: -one[2])


@pytest.mark.parametrize(("groups", "strength"), [(2, 0.7), (3, 1.5), (6, 1.5), (2, 0.0)])
def test_diverse_groups_by_hand(tiny_model, groups: int, strength: float) -> None:
    model = tiny_model()
    params = BeamParams(
        beams=6, groups=groups, diversity=strength, n=6, max_tokens=6, length_penalty=0.0
    )
    found = beam_search(model, [3, 1], params)
    expected = diverse_by_hand(model, [3, 1], 6, groups, strength, 6)
    assert sorted(one.ids for one in found) == sorted(list(ids) for ids, _, _ in expected)
    for one in found:
        assert one.logprob == pytest.approx(text_logprob(model, [3, 1], one.ids), abs=1e-4)


def test_groups_differ_more_than_one_beam(tiny_model) -> None:
    model = tiny_model()

    def first_tokens(groups: int) -> int:
        params = BeamParams(beams=4, groups=groups, diversity=5.0, n=4, max_tokens=8)
        return len({one.ids[0] for one in beam_search(model, [3, 1], params)})

    assert first_tokens(4) == 4 > first_tokens(1)


def test_mistakes_are_named(tiny_model) -> None:
    with pytest.raises(UserError, match="divide"):
        BeamParams.parse({"beams": 4, "groups": 3})
    with pytest.raises(UserError, match="at most beams"):
        BeamParams.parse({"beams": 2, "n": 3})
    with pytest.raises(UserError, match="prompt"):
        beam_search(tiny_model(), [1] * 48, BeamParams())
