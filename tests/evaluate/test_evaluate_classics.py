"""The classics against the command-line programs, and in cases that can be worked out."""

from __future__ import annotations

import lzma
import random
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event

import pytest

from langwright.evaluate import classics, classics_of_many, join_documents


@pytest.fixture(scope="module")
def texts() -> tuple[bytes, bytes]:
    words = [bytes(random.Random(i).choices(b"etaoinshrdlu", k=4)) for i in range(300)]
    pick = random.Random(0)
    text = b" ".join(pick.choices(words, k=30_000))
    return text[:120_000], text[120_000:]


def test_xz_equals_the_program(texts: tuple[bytes, bytes], tmp_path: Path) -> None:
    train, held = texts
    found = classics(train, held)["xz"].bits_per_byte

    def size(data: bytes) -> int:
        if shutil.which("xz") is None:
            return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
        return len(subprocess.run(["xz", "-9e", "-c"], input=data, capture_output=True).stdout)

    expected = 8 * (size(train + held) - size(train)) / len(held)
    assert found == pytest.approx(expected, rel=0.01)  # up to the program's padding


def test_zstd_equals_the_program(texts: tuple[bytes, bytes], tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("needs the zstd program")
    train, held = texts
    for name, data in (("train", train), ("held", held)):
        (tmp_path / name).write_bytes(data)
    command = ["zstd", "-19", "--long=27", "-q", f"--patch-from={tmp_path / 'train'}"]
    subprocess.run([*command, str(tmp_path / "held"), "-o", str(tmp_path / "out")], check=True)
    expected = 8 * (tmp_path / "out").stat().st_size / len(held)
    assert classics(train, held)["zstd"].bits_per_byte == pytest.approx(expected, rel=0.02)


def test_all_between_noise_and_copy(texts: tuple[bytes, bytes]) -> None:
    train, held = texts
    fresh = classics(train, held)
    copied = classics(train + held, held)
    noise = classics(train, random.Random(5).randbytes(20_000))
    assert set(fresh) == {"xz", "zstd", "5-gram"}
    for name in fresh:
        assert 1.0 < fresh[name].bits_per_byte < 4.0
        assert noise[name].bits_per_byte > 7.9
        assert fresh[name].seconds >= 0
    for name in ("xz", "zstd"):
        assert copied[name].bits_per_byte < 0.05
    # A source of 300 equally likely words of 4 letters and a blank has log2(300)/5 bits per byte.
    assert fresh["5-gram"].bits_per_byte == pytest.approx(1.646, abs=0.15)
    assert fresh["5-gram"].bits_per_byte > 1.64


def test_limit_of_training_text_and_divisor(texts: tuple[bytes, bytes]) -> None:
    train, held = texts
    some = classics(train, held, max_train_bytes=1000)
    same = classics(train[-1000:], held)
    assert {k: v.bits_per_byte for k, v in some.items()} == {
        k: v.bits_per_byte for k, v in same.items()
    }
    half = classics(train, held, text_bytes=len(held) // 2)
    assert half["xz"].bits_per_byte == pytest.approx(
        classics(train, held)["xz"].bits_per_byte * len(held) / (len(held) // 2)
    )
    with pytest.raises(ValueError, match="no held-out"):
        classics(train, b"")


def test_many_equals_each_alone(texts: tuple[bytes, bytes]) -> None:
    train, held = texts
    many = classics_of_many(train, {"a": held, "b": held[:5000]})
    for name, text in (("a", held), ("b", held[:5000])):
        alone = classics(train, text)
        for kind in alone:
            assert many[name][kind].bits_per_byte == alone[kind].bits_per_byte


def test_documents_are_joined_with_separators() -> None:
    assert join_documents(["a", "é"]) == b"a\0\xc3\xa9\0"


def test_real_text(shared_data: Callable[[str], Path]) -> None:
    """On the first and the last part of Tiny Shakespeare the 5-gram beats copying."""
    data = shared_data("tinyshakespeare.txt").read_bytes()
    train, held = data[:300_000], data[-30_000:]
    found = {name: one.bits_per_byte for name, one in classics(train, held).items()}
    assert 1.8 < found["5-gram"] < found["xz"] < 3.2
    assert found["5-gram"] < found["zstd"] < 3.3


def test_it_can_be_stopped(texts: tuple[bytes, bytes]) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(CancelledError):
        classics_of_many(texts[0], {"a": texts[1]}, stop=stop)
