"""The short story the book works with, in GPT-2's tokens."""

import pytest

from langwright.dataset import book_loader, growing_context

FIRST_IDS = [
    40,
    367,
    2885,
    1464,
    1807,
    3619,
    402,
    271,
    10899,
    2138,
    257,
    7026,
    15632,
    438,
    2016,
    257,
]


@pytest.fixture
def gpt2(shared_data):
    room = pytest.importorskip("langwright.tokenizer")
    return room.gpt2_tokenizer(shared_data("gpt2-encoder.json"), shared_data("gpt2-vocab.bpe"))


@pytest.fixture
def story(shared_data):
    return shared_data("the-verdict.txt").read_text(encoding="utf-8")


def test_first_batches(story, gpt2):
    inputs, targets = next(iter(book_loader(story, gpt2, 1, 4, 1, shuffle=False)))
    assert inputs.tolist() == [FIRST_IDS[:4]] and targets.tolist() == [FIRST_IDS[1:5]]
    inputs, targets = next(iter(book_loader(story, gpt2, 4, 4, 4, shuffle=False)))
    assert inputs.flatten().tolist() == FIRST_IDS
    assert targets.flatten().tolist()[:-1] == FIRST_IDS[1:]


def test_growing_context_of_the_story(story, gpt2):
    ids = gpt2.encode(story)[50:55]
    assert ids == [290, 4920, 2241, 287, 257]
    shown = list(growing_context(ids, gpt2))
    assert shown[0].target_text == " established" and shown[3].target_text == " a"
    assert shown[3].context == [290, 4920, 2241, 287]


def test_default_loader_over_the_story(story, gpt2):
    windows = -(-(5145 - 256) // 128)  # 5,145 tokens: 39 windows
    assert len(book_loader(story, gpt2)) == windows // 4
    assert len(book_loader(story, gpt2, drop_last=False)) == -(-windows // 4)


def test_training_and_validation_loaders(story, gpt2):
    """90/10 by characters: 4,612 and 534 tokens, 18 and 2 windows, 9 and 1 batches of (2, 256)."""
    cut = int(0.9 * len(story))
    assert cut == 18_431
    train, valid = story[:cut], story[cut:]
    assert (len(gpt2.encode(train)), len(gpt2.encode(valid))) == (4612, 534)
    options = {"batch_size": 2, "max_length": 256, "stride": 256}
    train_batches = list(book_loader(train, gpt2, **options, shuffle=True, drop_last=True))
    valid_batches = list(book_loader(valid, gpt2, **options, shuffle=False, drop_last=False))
    assert [inputs.shape for inputs, _ in train_batches] == [(2, 256)] * 9
    assert [inputs.shape for inputs, _ in valid_batches] == [(2, 256)]
    assert sum(inputs.numel() for inputs, _ in train_batches + valid_batches) == 5120


def test_separators_in_the_text_are_allowed(story, gpt2):
    joined = story[:4000] + "<|endoftext|>" + story[4000:]
    batches = book_loader(joined, gpt2, 1, 64, 64, shuffle=False)
    assert any((inputs == 50256).any() for inputs, _ in batches)
