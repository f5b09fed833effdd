"""Weights over several files, in halves of a float, linked from a cache; and what they cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import langwright.formats.shards as shards
from langwright.base import UserError, read_json
from langwright.formats import load_model, load_parts, save_model
from langwright.generate import Sampling, load
from langwright.model import ModelConfig, build_model

SMALL = {"vocab_size": 30, "context_length": 32, "width": 16, "layers": 3, "heads": 2}
MIXED = {**SMALL, "experts": {"count": 4, "chosen": 2, "hidden_width": 24}}

GPT2 = {
    "position": "learned",
    "norm": "layernorm",
    "norm_bias": True,
    "feedforward": "gelu_tanh",
    "qkv_bias": True,
    "attention_out_bias": True,
    "feedforward_bias": True,
}


def small(seed=2, **options):
    return build_model(ModelConfig(**{**SMALL, **options}), seed=seed).eval()


def ids():
    return torch.arange(12).reshape(2, 6)


def parts(folder):
    return sorted(path.name for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("options", [{}, {"tied": False}, MIXED])
@pytest.mark.parametrize("most", [1, 3000, 10_000])
def test_shards_come_back(options, most, tmp_path):
    model = small(**options)
    save_model(tmp_path, model, max_shard_bytes=most)
    index = read_json(tmp_path / "model.safetensors.index.json")
    assert not (tmp_path / "model.safetensors").exists()
    assert sorted(set(index["weight_map"].values())) == parts(tmp_path)
    held = {name: load_file(tmp_path / name) for name in parts(tmp_path)}
    assert len(held) > 2 and parts(tmp_path)[0] == f"model-00001-of-{len(held):05d}.safetensors"
    sizes = {name: sum(t.nbytes for t in file.values()) for name, file in held.items()}
    assert all(size <= most or len(held[name]) == 1 for name, size in sizes.items())
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert sum(sizes.values()) == 4 * sum(p.numel() for p in model.parameters())
    for tensor, name in index["weight_map"].items():
        assert tensor in held[name]
    assert torch.equal(load_model(tmp_path)(ids()), model(ids()))


def test_transformers_reads_our_shards_and_we_read_its(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = small(qk_norm=True)
    save_model(tmp_path / "ours", model, max_shard_bytes=5000)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    expected = theirs(input_ids=ids(), use_cache=False).logits
    assert (expected - model(ids())).abs().max() < 1e-5
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="5KB")
    assert len(parts(tmp_path / "theirs")) > 2
    assert torch.equal(load_model(tmp_path / "theirs")(ids()), model(ids()))


def test_one_file_is_the_very_bytes_of_the_library(tmp_path):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        save_model(tmp_path, small(tied=False), dtype=dtype)
        tensors = load_file(tmp_path / "model.safetensors")
        save_file(tensors, tmp_path / "again", metadata={"format": "pt"})
        assert (tmp_path / "again").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("most", [4000, 10**9])
@pytest.mark.parametrize("options", [{"tied": False}, MIXED, GPT2])
def test_every_number_survives(dtype, most, options, tmp_path):
    model = small(**options)
    save_model(tmp_path, model, dtype=dtype, max_shard_bytes=most)
    wide, low = load_model(tmp_path), load_model(tmp_path, dtype=torch.bfloat16)
    for name, value in model.named_parameters():
        stored = value.to(dtype)
        assert torch.equal(wide.get_parameter(name), stored.float()), name
        assert torch.equal(low.get_parameter(name), stored.to(torch.bfloat16)), name
        assert wide.get_parameter(name).requires_grad == value.requires_grad
        assert wide.get_parameter(name).untyped_storage().nbytes() == 4 * value.numel()
    assert low.compute_dtype == torch.bfloat16


def test_a_frozen_bias_stays_frozen(tmp_path):
    options = {**MIXED, "experts": {**MIXED["experts"], "selection_bias": True}}
    save_model(tmp_path, small(**options))
    frozen = {n: p for n, p in load_model(tmp_path).named_parameters() if not p.requires_grad}
    assert set(frozen) == {f"blocks.{layer}.feedforward.router.bias" for layer in range(3)}


def test_values_beyond_float16_are_refused(tmp_path):
    model = small()
    with torch.no_grad():
        model.blocks[1].attention.q.weight[0, 0] = 1e6
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.q_proj.*float16"):
        save_model(tmp_path, model, dtype=torch.float16)
    save_model(tmp_path, model)
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.q_proj.*float16"):
        load_model(tmp_path, dtype=torch.float16)
    assert load_model(tmp_path, dtype=torch.bfloat16)


def test_saving_over_another_layout_leaves_nothing_of_it(tmp_path):
    sharded, whole = small(seed=1), small(seed=2)
    expected = {True: sharded(ids()), False: whole(ids())}
    (tmp_path / "model-notes.safetensors").write_bytes(b"not ours to delete")
    for many in (True, False, True, True, False):
        save_model(tmp_path, sharded if many else whole, max_shard_bytes=4000 if many else 10**9)
        assert (tmp_path / "model.safetensors").exists() != many
        assert (tmp_path / "model.safetensors.index.json").exists() == many
        assert torch.equal(load_model(tmp_path)(ids()), expected[many])
    assert parts(tmp_path) == ["model-notes.safetensors", "model.safetensors"]


@pytest.mark.parametrize("before", [9000, 10**9])
@pytest.mark.parametrize("after", [9000, 10**9])
def test_a_crash_never_leaves_a_mixture(before, after, tmp_path, monkeypatch):
    """Whichever file could not be written, the folder is the old model or is refused."""
    old, new = small(seed=1), small(seed=2)
    for survives in range(20):
        save_model(tmp_path, old, max_shard_bytes=before)
        written = []

        def write(path, *rest, limit=survives, written=written, real=shards.write_tensors):
            if len(written) == limit:
                raise OSError("no space left on device")
            written.append(path)
            real(path, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(shards, "write_tensors", write)
            try:
                save_model(tmp_path, new, max_shard_bytes=after)
                break
            except OSError:
                pass
        try:
            assert torch.equal(load_model(tmp_path)(ids()), old(ids()))
        except UserError as error:
            assert "missing" in str(error)
    assert survives == (1 if after == 10**9 else len(parts(tmp_path)))
    assert torch.equal(load_model(tmp_path)(ids()), new(ids()))


def test_linked_files_of_a_cache_are_read_and_never_written_through(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    save_model(blobs, small(seed=1))
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(Path("..") / "blobs" / name)
    assert torch.equal(load_model(folder)(ids()), small(seed=1)(ids()))
    save_model(folder, small(seed=2))
    assert torch.equal(load_model(folder)(ids()), small(seed=2)(ids()))
    assert torch.equal(load_model(blobs)(ids()), small(seed=1)(ids()))


def test_a_model_without_a_tokenizer(tmp_path):
    save_model(tmp_path, small())
    assert load_parts(tmp_path)[1] is None
    lm = load(tmp_path, device="cpu")
    assert lm.tokenizer is None
    done = lm.complete_ids([[1, 2, 3]], Sampling(max_tokens=4, temperature=0.0))[0]
    assert len(done.ids) == 4
    for call in (
        lambda: lm.generate("Hello"),
        lambda: next(lm.stream("Hello")),
        lambda: lm.chat([{"role": "user", "content": "Hello"}]),
    ):
        with pytest.raises(UserError, match="no tokenizer"):
            call()


def test_a_gpt2_with_its_older_tokenizer_files(tmp_path):
    """vocab.json and merges.txt: of a GPT-2 they are read, of another model they may mean
    something else."""
    from langwright.tokenizer import BytePairTokenizer

    tokenizer = BytePairTokenizer.from_merges([(b"a", b"b")])
    content = tokenizer.to_json()["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(content["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    save_model(tmp_path, small(vocab_size=257, **GPT2))
    found = load_parts(tmp_path)[1]
    assert found is not None and found.encode("abab") == tokenizer.encode("abab")
    save_model(tmp_path, small(vocab_size=257))
    assert load_parts(tmp_path)[1] is None


MEMORY = """
import gc, sys, torch
from pathlib import Path
from langwright.formats import load_model, save_model
from langwright.model import ModelConfig, build_model

def now(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024

def peak_of(work):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = now("VmRSS")
    result = work()
    return result, now("VmHWM") - before

folder, kind = sys.argv[1:]
config = ModelConfig(vocab_size=4096, width=512, layers=4, heads=8, tied=False)
model = build_model(config)
size = 4 * sum(p.numel() for p in model.parameters())
largest = 4 * max(p.numel() for p in model.parameters())
options = dict(dtype=getattr(torch, kind), max_shard_bytes=20_000_000)
save_model(folder + "/warm", build_model(ModelConfig(vocab_size=9, width=8, layers=1, heads=1)))
load_model(folder + "/warm")
_, saving = peak_of(lambda: save_model(folder, model, **options))
del model
loaded, loading = peak_of(lambda: load_model(folder))
print(size, largest, saving, loading)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts memory on Linux")
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_never_two_copies_in_memory(kind, tmp_path):
    """Saving takes a tensor or two beside the model; loading the model and no more than that."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), kind],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    size, largest, saving, loading = map(int, done.stdout.split())
    assert size > 60e6
    assert saving < 3 * largest + 4e6
    assert loading < size + 3 * largest + 4e6


def test_dtype_and_order_as_the_library_sees_them(tmp_path):
    save_model(tmp_path, small(), dtype=torch.bfloat16)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
    assert read_json(tmp_path / "config.json")["dtype"] == "bfloat16"
