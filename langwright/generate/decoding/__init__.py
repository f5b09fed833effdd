"""Logits to tokens: one processor per file, joined in `decoder`; and ways to decode a whole text.

Read in this order: temperature, top_k, top_p, min_p, typical, penalties, bans, bad_words, settings,
row, decoder, draw, logprobs; then constraint; then proposals, ngram, draft_model, forced, verify,
speculative; then several, beam, contrastive, guided.
"""
