"""Layers prepared for the samples of a calibration set, computed once and kept in files."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from spade_ext.files import is_running, read_tensors, sweep, write_tensors
from spade_xai.models.copies import duplicate
from spade_xai.models.layers import Layer
from spade_xai.tracing.memory import plan_memory, scratch_bytes
from spade_xai.tracing.packed import Packed
from spade_xai.tracing.pruning.method import Prepared
from spade_xai.tracing.run import TracingRun

_WEIGHTS = "spade_xai.Cache.weights.1"


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder for a cache that is gone at the end; those of killed processes are removed."""
    prefix = "spade-tune-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        process = left.name.removeprefix(prefix).split("-")[0]
        if process.isdecimal() and not is_running(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-")


class SampleCache:
    """What pruning each layer for each sample takes, in a folder.

    A file appears under its name once it is whole. Files are known by the inputs they depend on, so that a
    folder can serve several runs. Damaged files are computed again.

    Args:
        folder: Made if it does not exist.
        inputs: Text of all that Hessians and orders depend on, layers and samples aside.
        run: The model and its samples.
        layers: Those to keep.
    """

    def __init__(self, folder: Path, inputs: str, run: TracingRun, layers: Sequence[Layer]) -> None:
        self.folder, self.run, self.layers = folder, run, list(layers)
        self.method = run.options.pruning
        self.key = hashlib.blake2b(inputs.encode(), digest_size=8).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        self._filled: set[int] = set()

    def _path(self, sample: int, layer: Layer, part: str) -> Path:
        name = hashlib.blake2b(layer.name.encode(), digest_size=8).hexdigest()
        return self.folder / f"{self.key}-{sample}-{name}.{part}.safetensors"

    def _prepared(self, sample: int, layer: Layer) -> Path:
        return self._path(sample, layer, "prepared")

    @torch.no_grad()
    def fill(self, sample: int) -> None:
        """Compute what is missing of a sample."""
        if sample in self._filled:
            return
        missing = [x for x in self.layers if not self._prepared(sample, x).exists()]
        options = self.run.options
        plan = plan_memory(
            missing,
            method=self.method,
            samples=1,
            max_memory=options.most_memory,
            function="tune",
            device=self.run.device,
        )
        for turn, part in enumerate(plan.parts):
            hessians = self.run.hessians(self.run.sources[sample], part, turn, len(plan.parts))
            for i, layer in enumerate(part):
                if layer.name in hessians:
                    most = self._scratch(layer, hessians)
                    self._keep(sample, layer, hessians.pop(layer.name), most)
                self.run.stages.report("prune", i + 1, len(part))
        self._filled.add(sample)

    def _scratch(self, layer: Layer, hessians: Mapping[str, Tensor]) -> int | None:
        """Bytes that native calls on CUDA may take within the limit, beside the Hessians that are held."""
        held = sum(h.nbytes for h in hessians.values())
        limit = self.run.options.most_memory
        return scratch_bytes([layer], self.method, 1, held, limit)

    def _keep(self, sample: int, layer: Layer, hessian: Tensor, most: int | None) -> None:
        weight = layer.read(self.run.dense).to(hessian.device)
        damp = self.run.options.damp
        prepared = self.method.prepare(layer, weight, hessian, damp, max_scratch=most)
        self.method.save(prepared, self._prepared(sample, layer))

    @torch.no_grad()
    def weights(self, sample: int, layer: Layer, ratio: float) -> Tensor:
        """Weights of a layer pruned for a sample; dense at 0, or if the layer cannot be pruned for it."""
        dense = layer.read(self.run.dense)
        if ratio == 0:
            return dense
        held = self._held(sample, layer)
        if held is None:
            return dense
        most = self._scratch(layer, {layer.name: held.hessian})
        (pruned,) = self.method.prune([held], [ratio], max_scratch=most)
        return dense if pruned.weights is None else pruned.weights.to(dense)

    def _held(self, sample: int, layer: Layer) -> Prepared | None:
        """The prepared layer; None if the sample does not use it."""
        self.fill(sample)
        path = self._prepared(sample, layer)
        if not path.exists():
            return None
        try:
            return self._read(path, layer)
        except ValueError:  # damaged: it is computed again
            path.unlink()
            self._filled.discard(sample)
            self.fill(sample)
            return self._read(path, layer)

    def _read(self, path: Path, layer: Layer) -> Prepared:
        weight = layer.read(self.run.dense).to(self.run.device)
        return self.method.load(path, layer, weight, self.run.options.damp)

    def model(self, sample: int, ratios: dict[str, float]) -> nn.Module:
        """The model pruned for a sample at these ratios; it shares other tensors with the dense one."""
        sparse = duplicate(self.run.dense)
        for layer in self.layers:
            ratio = ratios.get(layer.name, 0.0)
            if ratio > 0:
                layer.write(sparse, self._settled(sample, layer, ratio))
        return sparse

    def _settled(self, sample: int, layer: Layer, ratio: float) -> Tensor:
        """As weights, but solved once and kept: every later group is tuned with them."""
        path = self._path(sample, layer, f"at-{ratio!r}")
        if path.exists():
            try:
                kept, _ = read_tensors("tune", path, _WEIGHTS)
            except ValueError:  # damaged: it is computed again
                path.unlink()
            else:
                shape = tuple(layer.read(self.run.dense).shape)
                return Packed(shape, kept["bits"], kept["values"]).weights()
        weights = self.weights(sample, layer, ratio)
        packed = Packed.of(weights)
        write_tensors("tune", path, _WEIGHTS, {"bits": packed.bits, "values": packed.values})
        return weights
