"""Every family against transformers, both ways: logits, gradients, decoding; and wrong settings are
noticed."""

from __future__ import annotations

import pytest
import torch
from family_cases import CASES
from family_compare import (
    divergence,
    gradient_difference,
    greatest,
    ids_of,
    make_theirs,
    mutated,
    their_logits,
)

from langwright.base import read_json
from langwright.formats import from_hf_config, load_model, save_model
from langwright.formats.families import FAMILIES
from langwright.formats.hf_config import computation
from langwright.model import KVCache

transformers = pytest.importorskip("transformers")


class Made:
    """A case's model, saved by transformers and loaded by us; made once for all tests."""

    def __init__(self, name, folder):
        self.case, self.folder = CASES[name], folder
        self.theirs = make_theirs(self.case)
        self.theirs.save_pretrained(folder)
        self.ours = load_model(folder)
        self.ids = ids_of()
        with torch.no_grad():
            self.expected = their_logits(self.theirs, self.ids)
            self.logits = self.ours(self.ids)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    known = {}

    def get(name):
        if name not in known:
            known[name] = Made(name, tmp_path_factory.mktemp(name))
        return known[name]

    return get


def test_every_family_has_a_case():
    assert {read_type(case) for case in CASES.values()} == set(FAMILIES)


def read_type(case):
    return getattr(transformers, case.classes[0]).model_type


@pytest.mark.parametrize("name", CASES)
def test_logits_are_theirs(name, made):
    m = made(name)
    assert m.expected.std() >= 2
    assert greatest(m.logits, m.expected) <= 1e-4
    assert divergence(m.expected, m.logits) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_saved_by_us_opens_there(name, made, tmp_path):
    m = made(name)
    save_model(tmp_path, m.ours)
    written = read_json(tmp_path / "config.json")["model_type"]
    assert written == (m.case.written or read_type(m.case))
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        assert greatest(their_logits(again, m.ids), m.logits) <= 1e-4
    if written == read_type(m.case):
        state = again.state_dict()
        for key, value in m.theirs.state_dict().items():
            torch.testing.assert_close(state[key], value, atol=0, rtol=0)
    mine = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(mine(m.ids), m.logits)
    assert computation(mine.config) == computation(m.ours.config)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_theirs(name, tmp_path, made):
    m = made(name)
    theirs, ours = make_theirs(m.case), load_model(m.folder)
    assert gradient_difference(theirs, ours, m.ids, tmp_path) <= 1e-4


@pytest.mark.parametrize("name", ["gpt2", "gemma-3", "qwen3-moe", "deepseek-v3-yarn"])
def test_generated_tokens_are_theirs(name, made):
    """Greedy decoding, each with its own cache."""
    m = made(name)
    ids = m.ids[:, :12]
    expected = m.theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=15, do_sample=False
    )
    cache, rows, new = KVCache(m.ours.config, 2, 40), ids, ids
    with torch.no_grad():
        for _ in range(15):
            logits = m.ours(new, cache=cache)
            cache.advance(new.shape[1])
            new = logits[:, -1:].argmax(-1)
            rows = torch.cat((rows, new), dim=1)
    assert torch.equal(rows, expected)


@pytest.mark.parametrize("name", CASES)
def test_cached_decoding_is_theirs(name, made):
    """Token by token with a cache gives the logits that the whole text gives."""
    m = made(name)
    start, t = 11, m.ids.shape[1]
    with torch.no_grad():
        cache = KVCache(m.ours.config, 2, t)
        steps = [m.ours(m.ids[:, :start], cache=cache)[:, -1]]
        cache.advance(start)
        for n in range(start, t):
            steps.append(m.ours(m.ids[:, n : n + 1], cache=cache)[:, -1])
            cache.advance(1)
        if m.case.by_length:
            whole = [their_logits(m.theirs, m.ids[:, :n])[:, -1] for n in range(start, t + 1)]
        else:
            whole = m.expected[:, start - 1 :].unbind(1)
    assert greatest(torch.stack(steps), torch.stack(list(whole))) <= 1e-4


MUTATIONS = [
    (name, number) for name, case in CASES.items() for number in range(len(case.mutations))
]


@pytest.mark.parametrize(
    "name,number",
    MUTATIONS,
    ids=[
        f"{name}-{'-'.join(f'{k}={v}' for k, v in CASES[name].mutations[n].items())}"[:80]
        for name, n in MUTATIONS
    ],
)
def test_a_wrong_setting_is_noticed(name, number, made):
    """The parity test can fail: each wrong setting moves logits far beyond its tolerance."""
    m = made(name)
    with torch.no_grad():
        wrong = mutated(m.ours, m.case.mutations[number])(m.ids)
    difference = greatest(wrong, m.expected)
    assert difference > 1e-3, difference


@pytest.mark.parametrize("name", ["qwen3", "gemma-2", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files(name, dtype, tmp_path, made):
    """Read into fp32 exactly; saved and computed in half precision, near."""
    make_theirs(CASES[name]).to(dtype).save_pretrained(tmp_path / "theirs")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "theirs", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ours, ids = load_model(tmp_path / "theirs"), ids_of()
    assert ours.tokens.weight.dtype == torch.float32
    with torch.no_grad():
        assert greatest(ours(ids), their_logits(theirs, ids)) <= 1e-4
    save_model(tmp_path / "ours", ours, dtype=dtype)
    low = load_model(tmp_path / "ours", dtype=dtype)
    assert low.compute_dtype == low.tokens.weight.dtype == dtype
    assert torch.equal(low.tokens.weight.float(), ours.tokens.weight)
    with torch.no_grad():
        relative = (low(ids) - ours(ids)).norm() / ours(ids).norm()
    assert relative < (0.3 if name == "mixtral" else 0.1)  # a rounded router may choose another


def test_the_config_of_a_file_is_the_config_of_ours(made):
    """What transformers wrote and what we write describe the same computation."""
    for name in CASES:
        m = made(name)
        theirs = read_json(m.folder / "config.json")
        assert from_hf_config(theirs) == m.ours.config
