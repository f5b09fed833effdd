"""Supervised fine-tuning: a base model learns to answer.

The loss is the usual one, counted on the assistant's tokens only (Ouyang et al. 2022, step 1):

    L = - sum over t in the answers of log p(y_t | everything before)

The prompt, the other roles' text and padding are masked out; the token that ends the assistant's
turn is counted, so that the model learns to stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from langwright.base import UserError, say, seed_for
from langwright.corpus import read_conversations, read_documents
from langwright.dataset import ChatRows, Rows
from langwright.evaluate import Loss, evaluate_rows
from langwright.formats import load_model, save_model
from langwright.model import Transformer
from langwright.parallel import announce, world
from langwright.posttrain.config import SFTConfig
from langwright.tokenizer import ChatTokens, Tokenizer, load_tokenizer
from langwright.train import Trainer

Conversation = Mapping[str, Any]


def sft(config: SFTConfig, model: Path, corpus: Path, out: Path) -> dict[str, Any]:
    """Fine-tune a model on the conversations of a corpus.

    Args:
        config: the run.
        model: folder of the model to start from, with its tokenizer.
        corpus: folder that holds ``conversations/train.jsonl`` (and ``valid.jsonl``).
        out: gets ``model/`` (a Hugging Face folder), ``metrics.jsonl``, ``choices.json`` and
            ``checkpoints/``. Called again after an interruption, it goes on.

    Returns:
        Metrics of the run, how many conversations were used, skipped and cut, and the validation
        loss on the assistant's tokens before and after (nats per token).
    """
    announce("sft", config=config, model=model, corpus=corpus, out=out)
    config = config.settled()
    tokenizer = load_tokenizer(model)
    network = load_model(model, device="cpu", dtype=torch.float32)
    length = _sequence_length(config, network)
    rows = training_rows(config, tokenizer, corpus, length)
    valid = validation_rows(config, tokenizer, corpus, length)
    if world().first:
        say(_told(rows.report))
    before = _loss(network, valid, config.evaluate_rows)
    sets: dict[str, Rows] = {} if valid is None else {"conversations": valid}
    trainer = Trainer(network, rows, config, out, valid=sets, tokenizer=tokenizer, title="sft")
    metrics = trainer.run()
    if not world().first:
        return metrics
    save_model(out / "model", network, tokenizer)
    after = _loss(network, valid, config.evaluate_rows)
    return {
        **metrics,
        **{name: int(count) for name, count in rows.report.items()},
        "sequence_length": length,
        "valid_loss_before": None if before is None else before.nats_per_token,
        "valid_loss_after": None if after is None else after.nats_per_token,
        "valid_conversations": 0 if valid is None else int(valid.report["used"]),
    }


def training_rows(config: SFTConfig, tokenizer: Tokenizer, corpus: Path, length: int) -> ChatRows:
    """Rows of the training conversations, and of replayed documents if the config wants them."""
    conversations = _read(corpus, "train")
    if not conversations:
        raise UserError(
            "there are no conversations to fine-tune on",
            where=Path(corpus) / "conversations" / "train.jsonl",
            expected='lines of {"messages": [{"role": "user", "content": ...}, '
            '{"role": "assistant", "content": ...}]}',
            fix="make the corpus with conversations, or leave the sft section out of the recipe",
        )
    order = np.random.default_rng(seed_for(config.seed, "conversations"))
    if config.max_conversations is not None and config.max_conversations < len(conversations):
        chosen = sorted(order.permutation(len(conversations))[: config.max_conversations])
        conversations = [conversations[index] for index in chosen]
    chats = encode_conversations(tokenizer, conversations)
    fitting = [chat for chat in chats if config.long == "cut" or len(chat.ids) <= length + 1]
    rows = ChatRows(
        [*chats, *_replay(config, tokenizer, corpus, fitting, length)],
        length,
        seed=config.seed,
        pack=config.pack,
        long=config.long,
    )
    replayed = rows.report["conversations"] - len(chats)
    rows.report["conversations"] -= replayed
    rows.report["used"] -= replayed
    rows.report["replayed_pieces"] = replayed
    rows.report["counted_tokens"] = sum(sum(chat.mask[1:]) for chat in fitting)
    return rows


def validation_rows(
    config: SFTConfig, tokenizer: Tokenizer, corpus: Path, length: int
) -> ChatRows | None:
    """Rows of the validation conversations in their order; None if none of them fits."""
    chats = encode_conversations(tokenizer, _read(corpus, "valid"))
    if not any(len(chat.ids) <= length + 1 and any(chat.mask[1:]) for chat in chats):
        return None
    return ChatRows(chats, length, seed=config.seed, shuffle=False, pack=config.pack, long="skip")


def encode_conversations(
    tokenizer: Tokenizer, conversations: Sequence[Conversation]
) -> list[ChatTokens]:
    """Each conversation as ids and the mask of what the assistant says.

    A conversation of the wrong form is a `UserError` that names its number.
    """
    encoded = []
    for number, conversation in enumerate(conversations, start=1):
        try:
            encoded.append(tokenizer.encode_chat(conversation["messages"]))
        except UserError as error:
            raise UserError(
                error.message,
                where=f"conversation {number} {error.where or ''}".strip(),
                found=error.found,
                expected=error.expected,
                fix=error.fix,
            ) from None
    return encoded


def _replay(
    config: SFTConfig, tokenizer: Tokenizer, corpus: Path, chats: Sequence[ChatTokens], length: int
) -> Iterator[ChatTokens]:
    """Pieces of documents, every token counted, until they are the wanted share of all tokens.

    Documents are taken in a seeded order; each begins after the separator, as in pretraining.
    """
    if config.replay == 0:
        return
    wanted = config.replay / (1 - config.replay) * sum(len(chat.ids) for chat in chats)
    texts = [document.text for document in read_documents(corpus, "train") if document.text]
    order = np.random.default_rng(seed_for(config.seed, "replay")).permutation(len(texts))
    border = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    given = 0
    for index in order:
        ids = [*border, *tokenizer.encode(texts[index]), *border]
        for start in range(0, len(ids) - 1, length):
            piece = ids[start : start + length + 1]
            yield ChatTokens(piece, [True] * len(piece))
            given += len(piece)
            if given >= wanted:
                return


def _read(corpus: Path, split: str) -> list[Conversation]:
    path = Path(corpus) / "conversations" / f"{split}.jsonl"
    return list(read_conversations(corpus, split)) if path.exists() else []


def _sequence_length(config: SFTConfig, model: Transformer) -> int:
    context = model.config.context_length
    if config.sequence_length is not None and config.sequence_length > context:
        raise UserError(
            "the rows are longer than the model's context",
            where="sft.sequence_length",
            found=config.sequence_length,
            expected=f"at most {context}",
        )
    return config.sequence_length or context


def _loss(model: Transformer, valid: ChatRows | None, most_rows: int | None) -> Loss | None:
    """Validation loss over the rows that the run looks at, in fp32 before and after."""
    if valid is None:
        return None
    model.compute_dtype = torch.float32
    return evaluate_rows(model, valid, most_rows)


def _told(report: Mapping[str, int]) -> str:
    skipped = report["skipped_long"] + report["skipped_without_target"]
    return (
        f"sft: {report['used']:,} of {report['conversations']:,} conversations, "
        f"{report['counted_tokens']:,} tokens of answers; {skipped:,} skipped "
        f"({report['skipped_long']:,} too long), {report['cut']:,} cut"
    )
