"""A changed bit in a file of the package is refused or without effect.

A sample of the bits is tried. `SPADE_FLIPS=all pytest tests/files/test_flips.py` tries every one.
"""

import itertools
import os

import pytest
import torch
from torch import nn

from spade_xai import load_trace
from spade_xai.progress import Stages
from spade_xai.tracing.options import TraceOptions
from spade_xai.tracing.run import TracingRun
from spade_xai.tracing.trace import trace
from spade_xai.tuning.cache import SampleCache
from spade_xai.tuning.score_log import ScoreLog

FLIPS = os.environ.get("SPADE_FLIPS", "100")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).eval()


def flipped(path):
    """Each content of the file with one bit changed, or a sample of them; the file is as before at the end."""
    whole = path.read_bytes()
    bits = range(8 * len(whole))
    if FLIPS != "all":
        step = max(1, len(bits) // int(FLIPS))
        bits = itertools.chain(
            range(0, len(bits), step | 1), range(8 * (len(whole) - 1), len(bits))
        )
    for bit in bits:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        yield bit
    path.write_bytes(whole)


def test_trace(tmp_path):
    path, model = tmp_path / "t.safetensors", network()
    trace(
        model, torch.rand(1, 6), sparsity=0.5, augment=None, progress=False
    ).save(path)  # fmt: skip

    def read():
        found = load_trace(path, model)
        weights = {name: p.weights().tolist() for name, p in found._packed.items()}
        return weights, found.layers, found.settings, found.timings

    whole, refused = read(), 0
    for bit in flipped(path):
        try:
            assert read() == whole, bit
        except ValueError:
            refused += 1
    assert refused > 0 and read() == whole


def test_checkpoint(tmp_path):
    path, identity = tmp_path / "run.jsonl", {"model": "abc", "grid": "[0, 0.5]"}
    log = ScoreLog(path, identity)
    rows = {(1, 0.0, 0): 0.25, (1, 0.5, 0): -1.5e-7, (0, 0.5, 1): 0.1}
    for key, score in rows.items():
        log.add(*key, score)
    refused = 0
    for bit in flipped(path):
        try:
            found = ScoreLog(path, identity).scores
        except ValueError:
            refused += 1
            continue
        # The last row may be taken for an interrupted write: it is computed again.
        assert found.items() <= rows.items() and len(found) >= len(rows) - 1, bit
    assert refused > 0 and ScoreLog(path, identity).scores == rows


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_cache(tmp_path, method):
    options = TraceOptions(method=method, sparsity=1.0, augment=None, function="tune")
    with Stages(False) as stages, torch.no_grad():
        run = TracingRun(network(), [torch.rand(4, 6)], options, stages)

        def store():
            return SampleCache(tmp_path, "inputs", run, run.layers)

        (layer,) = run.layers
        settled = {layer.name: 0.5}
        weights, model = store().weights(0, layer, 0.5), store().model(0, settled)
        files = sorted(tmp_path.glob("*.safetensors"))
        assert len(files) == 2  # the prepared layer and its weights
        for path in files:
            for bit in flipped(path):
                assert torch.equal(store().weights(0, layer, 0.5), weights), bit
                assert torch.equal(store().model(0, settled)[1].weight, model[1].weight), bit
