"""Files that are damaged, half written, of another kind, or cannot be written."""

import os
import resource
import subprocess
import sys

import pytest
import torch
from problems import layer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from spade_ext import OBCTrace, files, obc_trace
from spade_xai import load_trace
from spade_xai.tracing.trace import trace
from spade_xai.tuning.tune import Tuned


@pytest.fixture
def obc():
    return obc_trace(*layer(4, 6, dtype=torch.float32))


@pytest.fixture
def pruned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    sample = torch.rand(1, 3, 2, 2)
    return model, trace(model, sample, sparsity=0.5, augmentations=4, progress=False)


def contents(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())


@pytest.mark.parametrize(
    "tensors, metadata, message",
    [
        ({"order": lambda t: t.long()}, {}, "order must have dtype torch.int32, got torch.int64"),
        ({"order": lambda t: t + 1}, {}, "order must hold each of 6 columns once in every row"),
        ({"order": lambda t: t * 0}, {}, "order must hold each of 6 columns once in every row"),
        ({"loss": lambda t: t.half()}, {}, "loss must have dtype torch.float32, got torch.float16"),
        ({"loss": lambda t: t[1:].clone()}, {}, r"loss must have shape \(4, 6\), got \(3, 6\)"),
        ({"hinv": lambda t: t.double()}, {}, "hinv must have dtype torch.float32, got torch.float64"),
        ({"hessian": lambda t: t[0].clone()}, {}, r"hessian must have shape \(6, 6\), got \(6,\)"),
        ({"weight": lambda t: t.int()}, {}, "weight must have dtype"),
        ({"weight": lambda t: t[0].clone()}, {}, "weight must have 2 or 3 dimensions"),
        ({"weight": None}, {}, "'weight'"),
        ({}, {"damp": None}, "'damp'"),
        ({}, {"damp": "x"}, "Expecting value"),
        ({}, {"damp": "-1"}, "damp must be in"),
        ({}, {"block": "0"}, "block must be at least 1, got 0"),
        ({}, {"block": "4"}, "block must divide the 6 columns, got 4"),
        ({}, {"block": '"a"'}, "block must be an int, got str"),
    ],
)  # fmt: skip
def test_damaged_elimination(obc, tmp_path, tensors, metadata, message):
    """Native code reads these tensors by address: none may pass that does not fit."""
    path = tmp_path / "layer.safetensors"
    obc.save(path)
    held, known = contents(path)
    for name, change in tensors.items():
        old = held.pop(name)
        if change is not None:
            held[name] = change(old)
    known = {name: text for name, text in {**known, **metadata}.items() if text is not None}
    save_file(held, path, {**known, "digest": files.digest_of(held, known)})
    with pytest.raises(ValueError, match=rf"OBCTrace\.load: \S+ is damaged: .*{message}"):
        OBCTrace.load(path)


def test_part_of_a_file_is_refused(obc, pruned, tmp_path):
    model, found = pruned
    whole, part = tmp_path / "whole", tmp_path / "part"
    for save, load in ((obc.save, OBCTrace.load), (found.save, lambda p: load_trace(p, model))):
        save(whole)
        data = whole.read_bytes()
        for length in (0, 5, 60, len(data) // 2, len(data) - 1):
            part.write_bytes(data[:length])
            with pytest.raises(ValueError, match="part is not a safetensors file"):
                load(part)
        with pytest.raises(FileNotFoundError, match="no file"):
            load(tmp_path)


def test_what_cannot_be_written_leaves_nothing(obc, pruned, tmp_path):
    for function, save in (("OBCTrace", obc.save), ("Trace", pruned[1].save)):
        with pytest.raises(FileNotFoundError, match=rf"{function}\.save: no folder \S+absent"):
            save(tmp_path / "absent" / "file")
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(OSError, match="folder"):
            save(tmp_path / "folder")
    with pytest.raises(FileNotFoundError):
        Tuned({}, 0.0, []).save(tmp_path / "absent" / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_interrupted_write_keeps_the_old_file(obc, tmp_path, monkeypatch):
    path = tmp_path / "layer.safetensors"
    obc.save(path)
    before = path.read_bytes()

    def interrupted(tensors, name, metadata):
        name.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("spade_ext.files.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        obc.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_only_files_are_replaced(obc, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(OSError, match=f"only a file can be replaced, got {path}"):
            obc.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"] and pipe.is_fifo()


def test_what_killed_processes_left_is_removed(obc, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_swept", set())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".old.safetensors.{files._HOST}-{gone.pid}-0.spade-part"
    alive = tmp_path / f".now.safetensors.{files._HOST}-{os.getpid()}-0.spade-part"
    elsewhere = tmp_path / f".now.safetensors.other_host-{gone.pid}-0.spade-part"
    users = tmp_path / "film.part1"
    for path in (left, alive, elsewhere, users):
        path.write_bytes(b"half")
    obc.save(tmp_path / "layer.safetensors")
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"layer.safetensors", alive.name, elsewhere.name, users.name}


WRITE = {
    "bytes": lambda path: files.write_bytes(path, b"x" * 9999),
    "tensors": lambda path: files.write_tensors("test", path, "a.B.1", {"x": torch.zeros(9999)}),
    "json": lambda path: files.write_json(path, "a.B.1", {"x": "x" * 9999}),
}


@pytest.mark.parametrize("kind", WRITE)
def test_a_full_disk_names_the_file(tmp_path, kind):
    """A limit on the size of files stands for the disk."""
    path = str(tmp_path / "large")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"(?i)too large") as error:
            WRITE[kind](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, text",
    [
        ("layers", "[1]"),
        ("layers", "{}"),
        ("layers", '[{"name": 1}]'),
        ("layers", "[" * 100_000),
        ("settings", "[]"),
        ("timings", '{"prune": "x"}'),
        ("timings", "[1]"),
        ("shapes", '{"1": "x"}'),
        ("shapes", '{"1": [1, 3, 12.5]}'),
        ("shapes", '{"1": [-1, 3, 12]}'),
        ("model", "[]"),
        ("model", '{"1.weight": 3}'),
        ("verdict", "3"),
        ("verdict", '{"faithful": "x"}'),
        ("verdict", "[" * 100_000),
        ("forward", "3"),
        ("forward", '{"form": {"kind": "tensor", "entries": 3}, "outputs": [1.0]}'),
        (
            "forward",
            '{"form": {"kind": "tensor", "entries": [[0, {"dtype": "load"}]]}, "outputs": []}',
        ),
        ("forward", '{"form": {"kind": "tensor", "entries": []}, "outputs": 3}'),
    ],
)
def test_metadata_of_wrong_types(pruned, tmp_path, name, text):
    """Even with a digest that fits, every error is ours."""
    model, found = pruned
    path = tmp_path / "t.safetensors"
    found.save(path)
    held, known = contents(path)
    known[name] = text
    save_file(held, path, {**known, "digest": files.digest_of(held, known)})
    with pytest.raises(ValueError, match=r"load_trace: \S+t.safetensors"):
        load_trace(path, model)


@pytest.mark.parametrize("text", ["[" * 100_000, "3", "[]", '{"format": 3}', "\x00"])
def test_json_of_another_kind(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"test: \S+x.json"):
        files.read_json("test", path, "spade_xai.Test.1")
    files.write_json(path, "spade_xai.Test.1", {"x": [1.5, None]})
    assert files.read_json("test", path, "spade_xai.Test.1") == {"x": [1.5, None]}
    path.write_text(path.read_text().replace("1.5", "2.5"))
    with pytest.raises(ValueError, match="is damaged: its content does not have its digest"):
        files.read_json("test", path, "spade_xai.Test.1")
