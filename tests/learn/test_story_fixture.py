"""The book-form script prints the book's figures."""

from __future__ import annotations

import math

import pytest
import story_fixture
import torch
from story_fixture import GELU, BookConfig, BookGPT, Figure, LayerNorm, MultiHeadAttention, Windows

SMALL = BookConfig(vocab_size=50, context_length=8, width=12, heads=3, layers=2)


def all_match(figures: list[Figure]) -> bool:
    wrong = [str(figure) for figure in figures if not figure.matches]
    assert figures and not wrong, "\n".join(wrong)
    return True


def test_a_figure_that_differs_does_not_match() -> None:
    assert Figure("", [1.0, 2], [1.0004, 2], 5e-4).matches
    assert not Figure("", [1.0006, 2], [1.0, 2], 5e-4).matches
    assert not Figure("", [1.0, 3], [1.0, 2], 5e-4).matches
    assert not Figure("", [1.0], [1.0, 2]).matches
    assert not Figure("", ["a"], ["b"], 1.0).matches


def test_layer_norm_demonstration() -> None:
    torch.manual_seed(123)
    batch = torch.randn(2, 5)
    out = torch.relu(torch.nn.Linear(5, 6)(batch))
    printed = torch.tensor([[0.6159, 1.4126, -0.8719, 0.5872, -0.8719, -0.8719]])
    printed *= math.sqrt(6 / 5)  # the book normalises by hand first, with the unbiased variance
    torch.testing.assert_close(LayerNorm(6)(out)[:1], printed, atol=5e-4, rtol=0)


def test_gelu_is_the_tanh_form() -> None:
    x = torch.tensor([-1.0, 0.5, 1.0, 3.0])
    printed = torch.tensor([-0.15881, 0.34571, 0.84119, 2.99636])
    torch.testing.assert_close(GELU()(x), printed, atol=5e-6, rtol=0)


def test_parts_agree_with_torch() -> None:
    """Attention and norms, written out, equal the library's."""
    torch.manual_seed(1)
    attention, x = MultiHeadAttention(SMALL).eval(), torch.randn(2, 5, 12)
    q, k, v = (
        layer(x).view(2, 5, 3, 4).transpose(1, 2)
        for layer in (attention.query, attention.key, attention.value)
    )
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    expected = attention.out(fused.transpose(1, 2).reshape(2, 5, 12))
    torch.testing.assert_close(attention(x), expected, atol=1e-6, rtol=1e-5)
    library = torch.nn.functional.layer_norm(x, (12,), eps=1e-5)
    torch.testing.assert_close(LayerNorm(12)(x), library, atol=1e-6, rtol=1e-5)


def test_no_token_sees_the_future() -> None:
    torch.manual_seed(2)
    model = BookGPT(SMALL).eval()
    ids = torch.randint(50, (1, 8))
    changed = ids.clone()
    changed[0, 5:] = (changed[0, 5:] + 1) % 50
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_windows_are_shifted_by_one_and_counted_as_in_the_book() -> None:
    windows = Windows(list(range(5145)), length=4, stride=4)
    assert len(windows) == 1286
    assert windows[1][0].tolist() == [4, 5, 6, 7]
    assert windows[1][1].tolist() == [5, 6, 7, 8]
    assert len(Windows(list(range(5145)), 8, 2)) == 2569
    assert len(Windows(list(range(8)), 8, 1)) == 0
    with pytest.raises(IndexError):
        windows[1286]


def test_the_loop_reports_after_updates_0_and_5_and_after_each_epoch() -> None:
    class Letters:
        def encode(self, text: str) -> list[int]:
            return [ord(letter) % 50 for letter in text]

        def decode(self, ids: list[int]) -> str:
            return "".join(chr(65 + i) for i in ids)

    data = Windows(torch.randint(50, (65,)).tolist(), 8, 8)
    loaders = (torch.utils.data.DataLoader(data, batch_size=2, shuffle=True),) * 2
    model = BookGPT(SMALL)
    reports = list(story_fixture.train_book(model, loaders, Letters(), epochs=2))
    assert [(r.step, r.tokens) for r in reports if r.sample is None] == [(0, 16), (5, 96)]
    assert [r.step for r in reports if r.sample is not None] == [3, 7]
    assert all(len(r.sample) == 22 + 50 for r in reports if r.sample is not None)


def test_greedy_generation_crops_the_context() -> None:
    torch.manual_seed(3)
    model = BookGPT(SMALL).eval()
    ids = story_fixture.generate(model, torch.randint(50, (2, 6)), 7)
    assert ids.shape == (2, 13)
    expected = model(ids[:, -9:-1])[:, -1].argmax(dim=-1)
    assert ids[:, -1].tolist() == expected.tolist()


def test_logits_and_greedy_text_of_chapter_4(story_and_tokenizer: tuple) -> None:
    assert all_match(list(story_fixture.model_figures(story_and_tokenizer[1])))


def test_losses_of_chapter_5(story_and_tokenizer: tuple) -> None:
    story, tokenizer = story_and_tokenizer
    assert all_match(list(story_fixture.loss_figures(tokenizer)))
    assert all_match(list(story_fixture.story_figures(story, tokenizer, train_too=False)))


@pytest.mark.slow
def test_untrained_training_loss(story_and_tokenizer: tuple) -> None:
    assert all_match(list(story_fixture.story_figures(*story_and_tokenizer)))


@pytest.mark.slow
def test_training_prints_what_the_book_prints(story_and_tokenizer: tuple) -> None:
    """All 10 epochs: 90 updates of 162M parameters in fp32, about 20 minutes on 2 cores."""
    story, tokenizer = story_and_tokenizer
    model = story_fixture.new_model(story_fixture.CHAPTER_5)
    loaders = story_fixture.story_loaders(story, tokenizer.encode)
    reports = list(story_fixture.train_book(model, loaders, tokenizer, epochs=10))
    figures = list(story_fixture.training_figures(reports))
    assert len(figures) == 7  # updates 0, 5, 10, 15, 80, 85 and the first sample
    assert all_match(figures)
    last = [report for report in reports if report.valid is not None][-1]
    assert last.tokens == 512 * 86
    assert last.valid is not None and 6.2 < last.valid < 6.6 and math.isfinite(last.valid)
    sample = reports[-1].sample
    assert sample is not None and longest_copy(sample, story) >= 5


def longest_copy(sample: str, story: str) -> int:
    """Most words in a row that the sample has in common with the story."""
    words, text = sample.split(), " ".join(story.split())
    return max(
        stop - start
        for start in range(len(words))
        for stop in range(start, len(words) + 1)
        if " ".join(words[start:stop]) in text
    )
