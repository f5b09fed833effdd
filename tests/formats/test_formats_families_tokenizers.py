"""Tokenizers and chat templates of every family, beside transformers, on hard strings."""

from __future__ import annotations

import pytest
from family_tokenizers import CHATS, FAMILIES, HARD, SYSTEM, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.tokenizer import load_tokenizer

transformers = pytest.importorskip("transformers")

WITH_CHAT = [name for name, family in FAMILIES.items() if family[4]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """name -> (theirs, ours), from one folder that transformers wrote."""
    transformers.logging.set_verbosity_error()
    known = {}

    def get(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            make_tokenizer(name).save_pretrained(folder)
            theirs = transformers.AutoTokenizer.from_pretrained(folder)
            known[name] = theirs, load_tokenizer(folder)
        return known[name]

    return get


def their_ids(theirs, text):
    return theirs.encode(text, add_special_tokens=False)


def check(theirs, ours, text):
    ids = ours.encode(text)
    assert ids == their_ids(theirs, text), repr(text)
    expected = theirs.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert ours.decode(ids) == expected, repr(text)


@pytest.mark.parametrize("name", FAMILIES)
def test_hard_strings(name, pair):
    theirs, ours = pair(name)
    for text in HARD:
        check(theirs, ours, text)
    check(theirs, ours, " ".join(HARD[1:]))


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(HARD) | st.text("ab \n\t1'▁é你", max_size=8), max_size=6))
def test_any_strings(pair, name, parts):
    check(*pair(name), "".join(parts))


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_and_ids(name, pair):
    theirs, ours = pair(name)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.vocab_size == len(theirs)
    special = FAMILIES[name][1]
    text = f"the fox{special[0]} runs {special[-1]}{special[0]}\nfar"
    assert ours.encode(text, allowed_special="all") == their_ids(theirs, text)
    assert not set(ours.encode(text)) & set(theirs.all_special_ids)


@pytest.mark.parametrize("name", WITH_CHAT)
def test_chat_templates(name, pair):
    theirs, ours = pair(name)
    for chat in CHATS:
        for prompt in (False, True):
            text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
            expected = their_ids(theirs, text)
            tokens = ours.encode_chat(chat, add_generation_prompt=prompt)
            if len(chat) == 1:
                assert tokens.ids == expected, (chat, prompt)
            # An answer begins and ends a token of its own; the text is the same all the same.
            assert ours.decode(tokens.ids) == ours.decode(expected)


@pytest.mark.parametrize("name", WITH_CHAT)
def test_system_messages(name, pair):
    theirs, ours = pair(name)
    chat = [SYSTEM, *CHATS[0]]
    try:
        text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except Exception:
        with pytest.raises(UserError, match="refuses"):
            ours.encode_chat(chat, add_generation_prompt=True)
        return
    tokens = ours.encode_chat(chat, add_generation_prompt=True)
    assert tokens.ids == their_ids(theirs, text)


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_by_us_opens_there(name, pair, tmp_path):
    theirs, ours = pair(name)
    ours.save(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    mine = load_tokenizer(tmp_path)
    for text in HARD:
        ids = their_ids(theirs, text)
        assert again.encode(text, add_special_tokens=False) == ids, repr(text)
        assert mine.encode(text) == ids
    assert again.chat_template == theirs.chat_template
    assert (again.bos_token_id, again.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
