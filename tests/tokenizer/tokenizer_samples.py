"""Texts that the tokenizer tests share."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

SAMPLE = (
    "The stars wheel over the harbour; nobody counts them. It's late, they'll say, I'VE heard.\n"
    "def count(items):\n    return sum(1 for _ in items)  # 12345 + 67,890\r\n\r\n"
    "Größe, naïve café, Ωmega, 東京の夜, привет, שלום, नमस्ते 👩‍👩‍👧 😀😀\n\n\n"
    "\t\tEnd... \u00a0 \u3000x"
) * 3

HARD = [
    "",
    " ",
    "   \n \n  x",
    "\r\n\r\n",
    "a\r\nb\rc\n",
    "\t\t  \t",
    "<|im_end|>",
    "<|im_start|>system\nx<|endoftext|>",
    "<|im_",
    "1234567 ٣٤٥ Ⅷ ½",
    "I'LL we've it'S 'ſ 'd",
    "\x00\x01\x1c\x1d\x85\u200b\u2028\ufeff",
    "é é ﬁ ß ẞ İ ı",
    "👩‍👩‍👧‍👦🏳️‍🌈 🇩🇪",
    "\u00a0word\u3000word \u202fx",
    "ababababaaaaaaaaaaaab",
    "https://a.b/c?d=e&f#g_h--i",
    "\U0010ffff\U000e0001",
]

_assigned = st.characters(exclude_categories=["Cs"]).filter(
    lambda one: unicodedata.category(one) != "Cn"
)
#: Texts made of hard pieces and of characters that every library's Unicode tables know.
hard_texts = st.lists(
    st.one_of(
        st.sampled_from(HARD), st.text(_assigned, max_size=8), st.text("ab \n1'", max_size=8)
    ),
    max_size=8,
).map("".join)
#: The same with lone surrogates and code points that are not assigned.
any_texts = st.lists(
    st.one_of(
        hard_texts, st.text(max_size=6), st.sampled_from(["\ud800", "\udfff", "\ude00\ud83d"])
    ),
    max_size=4,
).map("".join)
