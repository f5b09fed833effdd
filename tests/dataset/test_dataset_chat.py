"""Rows of conversations."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.dataset import IGNORE, ChatRows


@dataclass
class Chat:
    ids: list[int]
    mask: list[bool]


def chat(number, user, assistant):
    """`user` tokens asked, `assistant` tokens answered; ids tell the conversation and place."""
    total = user + assistant
    return Chat([number * 1000 + i for i in range(total)], [False] * user + [True] * assistant)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=20),
    width=st.integers(2, 30),
    pack=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_loss_on_the_assistants_tokens_only(shapes, width, pack):
    chats = [chat(number + 1, *shape) for number, shape in enumerate(shapes)]
    expected = []
    for one in chats:
        ids, mask = one.ids[-(width + 1) :], one.mask[-(width + 1) :]
        expected += [token for token, said in zip(ids[1:], mask[1:]) if said]
    if not expected:
        with pytest.raises(UserError, match="no conversation"):
            ChatRows(chats, width, pack=pack)
        return
    rows = ChatRows(chats, width, pack=pack)
    batch = rows.batch(0, rows.epoch_rows)
    assert sorted(batch.targets[batch.targets != IGNORE].tolist()) == sorted(expected)
    assert ((batch.targets != IGNORE).sum(1) > 0).all()  # no row teaches nothing
    assert rows.targets == batch.tokens == len(expected)
    report = rows.report
    assert report["used"] + report["skipped_without_target"] == report["conversations"]
    for row in range(rows.epoch_rows):
        for place in range(width):
            target = int(batch.targets[row, place])
            if target != IGNORE:
                assert int(batch.inputs[row, place]) == target - 1  # the token before it
    if pack:
        owner = batch.inputs // 1000
        for row in range(rows.epoch_rows):
            for number in range(int(batch.segments[row].max()) + 1):
                assert len(set(owner[row][batch.segments[row] == number].tolist())) == 1
    else:
        assert batch.segments is None and rows.epoch_rows == report["used"]


def test_the_stop_token_is_inside_the_loss():
    rows = ChatRows([Chat([1, 2, 3, 9], [False, False, True, True])], 6, pack=False)
    assert rows.batch(0, 1).targets.tolist() == [[IGNORE, 3, 9, IGNORE, IGNORE, IGNORE]]
    assert rows.batch(0, 1).inputs.tolist() == [[1, 2, 3, 0, 0, 0]]


def test_long_conversations_are_cut_from_the_left_or_skipped():
    long, short = chat(1, 10, 4), chat(2, 2, 2)
    rows = ChatRows([long, short], 6, pack=False, shuffle=False)
    assert rows.report == {
        "conversations": 2,
        "used": 2,
        "cut": 1,
        "skipped_long": 0,
        "skipped_without_target": 0,
    }
    assert rows.batch(0, 1).inputs.tolist() == [[1007, 1008, 1009, 1010, 1011, 1012]]
    assert rows.batch(0, 1).targets.tolist() == [[-100, -100, 1010, 1011, 1012, 1013]]
    rows = ChatRows([long, short], 6, long="skip")
    assert rows.report["skipped_long"] == 1 and rows.report["used"] == 1
    assert int(rows.batch(0, 1).inputs.max()) < 3000 and rows.epoch_rows == 1


def test_several_conversations_share_a_row():
    rows = ChatRows([chat(number, 3, 3) for number in range(1, 9)], 20, seed=1)
    assert rows.epoch_rows == 2 and rows.fill == 1.0
    assert rows.fingerprint != ChatRows([chat(1, 3, 3)], 20, seed=1).fingerprint


def test_an_assistant_that_speaks_first_counts_from_its_second_token():
    rows = ChatRows([Chat([5, 6, 7], [True, True, False])], 4, pack=False)
    assert rows.batch(0, 1).targets.tolist() == [[6, -100, -100, -100]]
    with pytest.raises(UserError, match="skipped_without_target 1"):
        ChatRows([Chat([5, 6, 7], [True, False, False])], 4)  # nothing predicts the first token
    with pytest.raises(ValueError, match="mask"):
        ChatRows([Chat([5, 6, 7], [True])], 4)
