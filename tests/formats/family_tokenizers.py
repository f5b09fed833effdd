"""A small tokenizer of each family's kind, as `transformers` writes it, with a chat template of its
form. Everything is imported inside functions."""

from __future__ import annotations

from typing import Any

SAMPLE = [
    "Once upon a time there was a fox who lived near the old mill. It's late, isn't it? We'll see!",
    "def main(argv):\n    for i in range(10):\n        print(i, 'x' * i)\n\n    return 1234567\n",
    "Ärger über Öl; déjà vu, naïve café. Привет, мир! 你好,世界。 日本語のテキスト ٣٤٥",
    "The the THE then than that this those   three    spaces\t\ttabs\r\n",
]
HARD = [
    "",
    " ",
    "   \n \n  x",
    "\r\n\r\n",
    "a\r\nb\rc\n",
    "\t\t  \t",
    "the fox's den, I'LL we've it'S 'ſ 'd",
    "1234567 ٣٤٥ Ⅷ ½ 12 345,678.90",
    "\x00\x01\x1c\x1d\x85\u200b\u2028\ufeff",
    "é e\u0301 ﬁ ß ẞ İ ı Å A\u030a",
    "👩‍👩‍👧‍👦🏳️‍🌈 🇩🇪",
    "\u00a0word\u3000word \u202fx",
    "abababaaaaaab    return   x\n\n\n\n",
    "https://a.b/c?d=e&f#g_h--i",
    "\U0010ffff\U000e0001",
    "你好,世界。日本語 mixed текст",
    "▁already ▁ marked",
    "<0x41> <unk",
]
CHATS = [
    [{"role": "user", "content": "Hello, fox!"}],
    [{"role": "user", "content": "  padded \n\n"}],
    [
        {"role": "user", "content": "é 1234567 the\tfox"},
        {"role": "assistant", "content": "It's late."},
        {"role": "user", "content": "你好 👩‍👩‍👧‍👦"},
    ],
]
SYSTEM = {"role": "system", "content": "Be brief."}

# The splits of published tokenizers.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
MISTRAL_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% set role = 'model' %}{% elif message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3_CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + "
    "'<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
DEEPSEEK_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<｜User｜>' + message['content'] }}{% elif message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}{% else %}"
    "{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)


def byte_level(pattern: str | None, *, nfc: bool = False, splits: tuple[str, ...] = ()) -> Any:
    """Byte-level BPE: GPT-2 (pattern None), Llama 3, Qwen, OLMo 2, DeepSeek."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(ignore_merges=pattern == LLAMA3))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        steps = [pre_tokenizers.Split(Regex(one), "isolated") for one in (*splits, pattern)]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, last])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_pieces(kind: str) -> Any:
    """BPE over characters, ▁ for a space, bytes as a last resort: Llama 2, Mistral, Gemma."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind == "llama2":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        steps.append(decoders.Strip(" ", 1, 0))
    elif kind == "mistral":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


# family -> (maker, special tokens, bos, eos, chat template, ordinary tokens added by hand)
FAMILIES: dict[str, tuple[Any, list[str], str | None, str, str | None, list[str]]] = {
    "gpt2": (lambda: byte_level(None), ["<|endoftext|>"], None, "<|endoftext|>", None, []),
    "llama-2": (
        lambda: sentence_pieces("llama2"), ["<s>", "</s>"], "<s>", "</s>", MISTRAL_CHAT, []
    ),
    "llama-3": (
        lambda: byte_level(LLAMA3),
        ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        "<|begin_of_text|>",
        "<|eot_id|>",
        LLAMA3_CHAT,
        [],
    ),
    "mistral-mixtral": (
        lambda: sentence_pieces("mistral"),
        ["<s>", "</s>", "[INST]", "[/INST]"],
        "<s>",
        "</s>",
        MISTRAL_CHAT,
        [],
    ),
    "qwen": (
        lambda: byte_level(QWEN, nfc=True),
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        None,
        "<|im_end|>",
        CHATML,
        ["<think>", "</think>"],
    ),
    "smollm": (
        lambda: byte_level(GPT2, splits=(r"\p{N}",)),
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "<|im_start|>",
        "<|im_end|>",
        CHATML,
        [],
    ),
    "gemma": (
        lambda: sentence_pieces("gemma"),
        ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
        "<bos>",
        "<eos>",
        GEMMA_CHAT,
        ["\n\n", "▁▁", "▁▁▁"],
    ),
    "olmo-2": (
        lambda: byte_level(LLAMA3),
        ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"],
        "<|endoftext|>",
        "<|endoftext|>",
        PHI3_CHAT,
        [],
    ),
    "phi-3": (
        lambda: sentence_pieces("llama2"),
        ["<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"],
        "<s>",
        "<|endoftext|>",
        PHI3_CHAT,
        [],
    ),
    "gpt-neox": (
        lambda: byte_level(None, nfc=True),
        ["<|endoftext|>"],
        "<|endoftext|>",
        "<|endoftext|>",
        None,
        ["   ", "  "],
    ),
    "deepseek": (
        lambda: byte_level(LLAMA3, splits=(r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+")),
        ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"],
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        DEEPSEEK_CHAT,
        ["<｜User｜>", "<｜Assistant｜>"],
    ),
}  # fmt: skip


def make_tokenizer(name: str) -> Any:
    """The trained tokenizer as a `PreTrainedTokenizerFast`."""
    import transformers
    from tokenizers import AddedToken, pre_tokenizers, processors, trainers

    maker, special, bos, eos, template, ordinary = FAMILIES[name]
    tokenizer = maker()
    pieces = tokenizer.model.byte_fallback
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))] if pieces else []
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*words[:1], *special],
        initial_alphabet=[] if pieces else pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SAMPLE * 3, trainer)
    if pieces:
        tokenizer = with_bytes(tokenizer, words)
    tokenizer.add_tokens([AddedToken(one, normalized=False) for one in ordinary])
    if bos and not pieces:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        unk_token="<unk>" if pieces else None,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def with_bytes(tokenizer: Any, words: list[str]) -> Any:
    """The same with a token for every byte, in the vocabulary and not beside it."""
    import json

    from tokenizers import Tokenizer

    content = json.loads(tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    return Tokenizer.from_str(json.dumps(content))
