"""Model folders made to do harm: each is refused with words, in little time and memory.

All cases of one kind are opened in a child process whose memory is limited, with an alarm.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from hostile_run import run_limited
from safetensors.torch import load_file, save_file

from langwright.formats import save_model
from langwright.model import ModelConfig, build_model

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="limits memory as Linux does"
)

SMALL = {"vocab_size": 30, "context_length": 32, "width": 16, "layers": 2, "heads": 2}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"


def header_of(folder):
    data = (folder / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def put(folder, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit(**fields):
    """Change fields of one tensor's entry in the header."""

    def damage(folder):
        header, data = header_of(folder)
        header[UP].update(fields)
        put(folder, header, data)

    return damage


def raw(make):
    """Replace the header's text by `make(text)`; the data stays."""

    def damage(folder):
        header, data = header_of(folder)
        put(folder, make(json.dumps(header).encode()), data)

    return damage


def tensors(change):
    def damage(folder):
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS)

    return damage


def whole(content):
    return lambda folder: (folder / WEIGHTS).write_bytes(content)


def cut(share):
    def damage(folder):
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[: int(len(data) * share)])

    return damage


def rename(old, new):
    return raw(lambda text: text.replace(json.dumps(old).encode(), json.dumps(new).encode()))


class Trap:
    def __reduce__(self):
        return os.system, ("touch sprung",)


def pickled(folder):
    (folder / WEIGHTS).write_bytes(pickle.dumps(Trap()))


def archived(folder):
    torch.save({"x": Trap()}, folder / WEIGHTS)


def special(make):
    def damage(folder):
        (folder / WEIGHTS).unlink()
        make(folder / WEIGHTS)

    return damage


def set_value(name, value):
    def change(held):
        held[name].view(-1)[5] = value

    return tensors(change)


def far(folder):
    """An entry whose end lies beyond any file."""
    edit(data_offsets=[2**62, 2**62 + 64 * 16 * 4])(folder)


def overlapping(folder):
    header, data = header_of(folder)
    other = header["model.layers.0.mlp.up_proj.weight"]["data_offsets"]
    header[UP]["data_offsets"] = other
    put(folder, header, data)


def a_gap(folder):
    header, data = header_of(folder)
    del header[UP]
    put(folder, header, data)


def eight_bit(tensor):
    return tensor.to(torch.float8_e4m3fn)


LOST = "model.layers.7.mlp.up_proj.weight"
WEIGHT_FILES = {
    "cut-in-size": (whole(b"\x10\0\0"), ["ends inside its header"]),
    "cut-in-header": (cut(0.05), ["ends inside its header"]),
    "cut-in-data": (cut(0.5), ["tensor model.", "beyond the end"]),
    "cut-by-one": (cut(0.99999), ["beyond the end"]),
    "trailing": (lambda f: put(f, *[header_of(f)[0], header_of(f)[1] + b"x" * 9]), ["9 bytes"]),
    "empty": (whole(b""), ["empty file"]),
    "size-2^63": (whole(b"\xff" * 7 + b"\x7f{}"), ["ends inside"]),
    "header-too-large": (whole(struct.pack("<Q", 2**25) + b" " * 2**25), ["its header has"]),
    "brackets": (whole(struct.pack("<Q", 2**24) + b"{" + b"[" * (2**24 - 1)), ["far too many"]),
    "nested": (raw(lambda t: b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}"), ["not valid JSON"]),
    "digits": (raw(lambda t: b'{"a":' + b"9" * 90_000 + b"}"), ["not valid JSON"]),
    "not-utf8": (raw(lambda t: t[:-1] + b',"\xff":1}'), ["not valid JSON"]),
    "list": (raw(lambda t: b"[1,2]"), ["no header"]),
    "twice": (raw(lambda t: t[:-1] + b"," + t[t.index(b'"model.') :]), ["stands twice"]),
    "metadata-list": (raw(lambda t: t[:-1] + b',"__metadata__":[]}'), ["__metadata__"]),
    "metadata-number": (raw(lambda t: t.replace(b'"pt"', b"1.5")), ["__metadata__"]),
    "no-entry": (raw(lambda t: t[:-1] + b',"more":7}'), ["tensor more has no known type"]),
    "dtype": (edit(dtype="F31"), [UP, "no known type", "F31"]),
    "dtype-list": (edit(dtype=["F32"]), [UP, "no known type"]),
    "integers": (edit(dtype="I32"), [UP, "I32"]),
    "eight-bit": (
        tensors(lambda t: t.update({UP: t[UP].to(torch.float8_e4m3fn)})),
        [UP, "F8_E4M3"],
    ),
    "shape-huge": (edit(shape=[2**62, 2**62]), [UP, "as many bytes"]),
    "shape-zero-huge": (edit(shape=[0, 2**62]), [UP, "as many bytes"]),
    "shape-negative": (edit(shape=[-64, -16]), [UP, "no shape"]),
    "shape-bool": (edit(shape=[True, 1024]), [UP, "no shape"]),
    "shape-float": (edit(shape=[64.0, 16]), [UP, "no shape"]),
    "shape-long": (edit(shape=[1] * 5000), [UP, "no shape"]),
    "shape-other": (edit(shape=[16, 64]), [UP, "(16, 64)", "(64, 16)"]),
    "place-far": (far, [UP, "beyond the end"]),
    "place-back": (edit(data_offsets=[4096, 0]), [UP, "beyond the end"]),
    "place-one": (edit(data_offsets=[0]), [UP, "no place"]),
    "place-negative": (edit(data_offsets=[-4096, 0]), [UP, "no place"]),
    "overlap": (overlapping, [UP, "shares bytes"]),
    "gap": (a_gap, ["leaves a gap"]),
    "name-escape": (rename(UP, "\x1b[2J"), ["not plain text", "x1b"]),
    "name-surrogate": (rename(UP, "\ud800"), ["not valid JSON", "surrogates"]),
    "name-long": (rename(UP, "x" * 100_000), ["not plain text"]),
    "name-missing": (
        rename(UP, "model.layers.7.mlp.up_proj.weight"),
        ["1 tensors are missing", UP],
    ),
    "extra": (tensors(lambda t: t.update(more=torch.zeros(1))), ["no place for", "more"]),
    "nan": (set_value(UP, float("nan")), [UP, "NaN", "1 of 1,024"]),
    "inf": (set_value(UP, float("-inf")), [UP, "NaN", "1 of 1,024"]),
    "pickle": (pickled, ["pickle", "not opened"]),
    "pickle-archive": (archived, ["pickle", "not opened"]),
    "lfs": (whole(b"version https://git-lfs.github.com/spec/v1\noid"), ["Git LFS", "git lfs pull"]),
    "web-page": (whole(b"<!DOCTYPE html><html>"), ["web page"]),
    "gguf": (whole(b"GGUF" + b"\0" * 60), ["GGUF"]),
    "pipe": (special(os.mkfifo), ["not a regular file"]),
    "folder": (special(Path.mkdir), ["not a regular file"]),
    "endless": (special(lambda p: p.symlink_to("/dev/zero")), ["not a regular file"]),
    "circle": (special(lambda p: p.symlink_to(p.name)), ["cannot be read"]),
    "dangling": (special(lambda p: p.symlink_to("nowhere")), ["file not found"]),
}


def index(change):
    """Damage the index of a sharded folder."""

    def damage(folder):
        table = json.loads((folder / INDEX).read_text())
        change(table)
        (folder / INDEX).write_text(json.dumps(table))

    return damage


def points_to(place):
    return index(lambda table: table["weight_map"].update({UP: place}))


def lost_shard(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()


def swapped(table):
    """Each of the two files' tensors said to be in the other."""
    one, two = "00001-of", "00002-of"
    for name, place in table["weight_map"].items():
        table["weight_map"][name] = place.replace(*((one, two) if one in place else (two, one)))


def scattered(table):
    table["weight_map"].update({f"x{i}": f"x{i}.safetensors" for i in range(2000)})


def in_both(folder):
    first, second = sorted(folder.glob("model-*.safetensors"))
    save_file(load_file(first) | {UP: load_file(second)[UP]}, first)


def damaged_shard(folder):
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


INDEXES = {
    "parent": (points_to("../secret.safetensors"), [INDEX, UP, "../secret"]),
    "absolute": (points_to("/etc/passwd"), [INDEX, UP]),
    "absolute-safetensors": (points_to("/etc/x.safetensors"), [INDEX, UP]),
    "below": (points_to("a/x.safetensors"), [INDEX]),
    "drive": (points_to("C:x.safetensors"), [INDEX]),
    "backslash": (points_to("..\\x.safetensors"), [INDEX]),
    "address": (points_to("http://x/y.safetensors"), [INDEX]),
    "zero": (points_to("x\0.safetensors"), [INDEX]),
    "other-kind": (points_to("pytorch_model.bin"), [INDEX, "pytorch_model.bin"]),
    "number": (points_to(7), [INDEX]),
    "itself": (points_to(INDEX), [INDEX]),
    "nowhere": (points_to("model-00009-of-00002.safetensors"), ["part of the weights is missing"]),
    "lost": (lost_shard, ["model-00002-of-00002", "missing"]),
    "swapped": (index(swapped), ["not in the file that the index names"]),
    "unnamed": (index(lambda t: t["weight_map"].pop(UP)), ["does not name", UP]),
    "promised": (
        index(lambda t: t["weight_map"].update(more="model-00001-of-00002.safetensors")),
        ["tensor more", "not in the file"],
    ),
    "in-both": (in_both, [UP, "two files"]),
    "many-files": (index(scattered), ["too many files"]),
    "no-map": (index(lambda t: t.pop("weight_map")), ["no weight_map"]),
    "map-list": (index(lambda t: t.update(weight_map=[1])), ["no weight_map"]),
    "map-empty": (index(lambda t: t.update(weight_map={})), ["no weight_map"]),
    "brackets": (lambda f: (f / INDEX).write_bytes(b"[" * 2**24), ["far too many"]),
    "enormous": (lambda f: os.truncate(f / INDEX, 2**40), ["too large"]),
    "damaged-shard": (damaged_shard, ["00002-of-00002", "beyond the end"]),
}


def config(**fields):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return damage


def config_text(content):
    return lambda folder: (folder / "config.json").write_bytes(content)


def config_pipe(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


MIXTURE = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 4096,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 1024,
}


def many_experts(folder):
    """Thousands of layers and experts, beside a file with as many tensors of nothing."""
    config(**MIXTURE)(folder)
    save_file({f"x{i}": torch.zeros(0) for i in range(4096)}, folder / WEIGHTS)


CONFIGS = {
    "vocabulary": (config(vocab_size=2**24), ["embed_tokens", "16777216"]),
    "vocabulary-more": (config(vocab_size=10**30), ["vocab_size"]),
    "width": (config(hidden_size=2**17, head_dim=8), ["131072"]),
    "petabyte": (config(vocab_size=2**24, hidden_size=2**17, intermediate_size=2**20), ["131072"]),
    "layers": (config(num_hidden_layers=1024), ["fewer tensors", "1024"]),
    "layers-more": (config(num_hidden_layers=10**9), ["layers"]),
    "layers-none": (config(num_hidden_layers=0), ["layers"]),
    "heads": (config(num_attention_heads=4096, head_dim=16384), ["q_proj"]),
    "heads-float": (config(num_attention_heads=1e308), ["num_attention_heads"]),
    "experts": (many_experts, ["far too many experts"]),
    "infinite": (config(rope_theta=float("inf"), rope_parameters=None), ["rope_theta"]),
    "minus": (config(intermediate_size=-1), ["hidden_width", "-1"]),
    "digits": (config_text(b'{"vocab_size": ' + b"9" * 100_000 + b"}"), ["not valid JSON"]),
    "nested": (config_text(b"[" * 500_000), ["not valid JSON"]),
    "utf16": (config_text('{"a": 1}'.encode("utf-16")), ["not valid JSON"]),
    "zeros": (config_text(b"\0" * 1000), ["not valid JSON"]),
    "enormous": (lambda f: os.truncate(f / "config.json", 2**40), ["too large"]),
    "pipe": (config_pipe, ["not a regular file"]),
    "endless": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").symlink_to("/dev/zero")),
        ["not a regular file"],
    ),
}

GROUPS = {"weights": WEIGHT_FILES, "index": INDEXES, "config": CONFIGS}
CASES = [(group, name) for group, cases in GROUPS.items() for name in cases]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What became of each case: opened one after another in one child process."""
    place = tmp_path_factory.mktemp("hostile")
    model = build_model(ModelConfig(**SMALL), seed=2)
    plan = []
    for group, name in CASES:
        folder = place / f"{group}-{name}"
        save_model(folder, model, max_shard_bytes=20_000 if group == "index" else 10**9)
        if group == "index":
            assert len(list(folder.glob("model-*"))) == 2
        GROUPS[group][name][0](folder)
        plan.append(["model", str(folder)])
    lines = run_limited(plan, place)
    assert not list(Path(place).rglob("sprung"))
    return dict(zip(CASES, lines, strict=True))


@pytest.mark.parametrize("group,name", CASES, ids=[f"{g}-{n}" for g, n in CASES])
def test_harm_is_refused_with_words(group, name, told):
    case = told[group, name]
    assert case["result"] == "refused", case
    for word in [f"{group}-{name}", *GROUPS[group][name][1]]:  # the folder, and what is wrong
        assert word in case["message"], case["message"]
    assert case["message"].replace("\n", "").isprintable() and len(case["message"]) < 3000
    assert case["seconds"] < 10 and case["bytes"] < 400e6
