"""Makes `openai_tiny/`: a GPT-2 in OpenAI's layout, written by TensorFlow itself.

    pip install tensorflow-cpu
    python make_openai_tiny.py

The variables have the names and shapes of OpenAI's released `model.py`; the logits beside them are
TensorFlow's own, in float64, so that both the reader and the arithmetic have a foreign reference.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).parent / "openai_tiny"
HPARAMS = {"n_vocab": 262, "n_ctx": 24, "n_embd": 8, "n_head": 2, "n_layer": 2}
MERGES = ["t h", "th e", "Ġ the", "a t", "i n"]
IDS = [
    [5, 0, 261, 17, 103, 255, 258, 17, 9, 200, 64, 1],
    [260, 2, 2, 90, 31, 7, 0, 120, 44, 8, 3, 6],
]


def variables(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Every variable of the model, by TensorFlow's name; large, so that each one matters."""
    d = HPARAMS["n_embd"]
    shapes: dict[str, tuple[int, ...]] = {
        "model/wte": (HPARAMS["n_vocab"], d),
        "model/wpe": (HPARAMS["n_ctx"], d),
        "model/ln_f/g": (d,),
        "model/ln_f/b": (d,),
    }
    for layer in range(HPARAMS["n_layer"]):
        block = f"model/h{layer}"
        shapes |= {f"{block}/ln_{n}/{kind}": (d,) for n in (1, 2) for kind in "gb"}
        for name, wide in (
            ("attn/c_attn", (d, 3 * d)),
            ("attn/c_proj", (d, d)),
            ("mlp/c_fc", (d, 4 * d)),
            ("mlp/c_proj", (4 * d, d)),
        ):
            shapes[f"{block}/{name}/w"] = (1, *wide)
            shapes[f"{block}/{name}/b"] = (wide[1],)
    values = {}
    for name, shape in shapes.items():
        around = 1.0 if name.endswith("/g") else 0.0
        values[name] = (around + 0.8 * rng.standard_normal(shape)).astype(np.float32)
    return values


def norm(x: tf.Tensor, g: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(centred * centred, axis=-1, keepdims=True)
    return centred / tf.sqrt(variance + 1e-5) * g + b


def gelu(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * x * (1 + tf.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def logits(p: dict[str, tf.Tensor], ids: np.ndarray) -> tf.Tensor:
    """(B, T) ids to (B, T, V) logits."""
    b, t = ids.shape
    heads = HPARAMS["n_head"]
    x = tf.gather(p["model/wte"], ids) + p["model/wpe"][:t]
    for layer in range(HPARAMS["n_layer"]):
        at = f"model/h{layer}/"

        def linear(x: tf.Tensor, name: str, at: str = at) -> tf.Tensor:
            return x @ p[f"{at}{name}/w"][0] + p[f"{at}{name}/b"]

        h = linear(norm(x, p[f"{at}ln_1/g"], p[f"{at}ln_1/b"]), "attn/c_attn")
        q, k, v = (
            tf.transpose(tf.reshape(part, (b, t, heads, -1)), (0, 2, 1, 3))
            for part in tf.split(h, 3, axis=-1)
        )
        scores = q @ tf.transpose(k, (0, 1, 3, 2)) / np.sqrt(q.shape[-1])
        mask = tf.linalg.band_part(tf.ones((t, t), tf.float64), -1, 0)
        weights = tf.nn.softmax(scores * mask - 1e10 * (1 - mask))
        mixed = tf.reshape(tf.transpose(weights @ v, (0, 2, 1, 3)), (b, t, -1))
        x = x + linear(mixed, "attn/c_proj")
        h = gelu(linear(norm(x, p[f"{at}ln_2/g"], p[f"{at}ln_2/b"]), "mlp/c_fc"))
        x = x + linear(h, "mlp/c_proj")
    return norm(x, p["model/ln_f/g"], p["model/ln_f/b"]) @ tf.transpose(p["model/wte"])


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order of its vocabulary."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [chr(256 + n) for n in range(256 - len(kept))]
    return [chr(byte) for byte in kept] + moved


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    values = variables(np.random.default_rng(0))
    tf.compat.v1.disable_eager_execution()
    with tf.compat.v1.Session() as session:
        for name, value in values.items():
            tf.compat.v1.get_variable(name, initializer=value)
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(FOLDER / "model.ckpt"), write_meta_graph=False)
        exact = {name: tf.constant(value, tf.float64) for name, value in values.items()}
        expected = session.run(logits(exact, np.asarray(IDS)))
    print("standard deviation of the logits", expected.std())
    (FOLDER / "hparams.json").write_text(json.dumps(HPARAMS))
    tokens = [*byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>"]
    table = {token: number for number, token in enumerate(tokens)}
    (FOLDER / "encoder.json").write_text(json.dumps(table))
    (FOLDER / "vocab.bpe").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", "utf-8")
    # Float64 logits to 10 digits of the last few places: enough to tell any slip.
    record = {"ids": IDS, "logits": np.round(expected[:, -3:, ::5], 8).tolist()}
    (FOLDER / "logits.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
