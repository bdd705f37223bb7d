"""Classes with the interface of the published ones over the recurrences of reference.published, in float64."""

import torch
from compat_layers import as_rows, columns
from torch import nn

from spade_ext.reference import published, structured_columns


class _Published:
    def __init__(self, layer):
        self.layer, self.batches = layer, []
        self.rows, self.columns = as_rows(layer).shape
        if isinstance(layer, nn.Conv2d):
            self.kernel_size = layer.kernel_size[0] * layer.kernel_size[1]

    def add_batch(self, inp, out=None):
        count = 1 if inp.ndim == 2 and self.matrix_is_one else len(inp)
        self.batches.append((columns(self.layer, inp.double())[0], count))

    def hessian(self):
        return published.running_hessian(self.batches)

    def dense(self):
        return as_rows(self.layer).double()

    def give(self, layer, weight):
        shaped = weight.T if type(layer).__name__ == "Conv1D" else weight
        layer.weight.data = shaped.reshape(layer.weight.shape).to(layer.weight.dtype)

    def free(self):
        self.batches = []


class SparseGPT(_Published):
    matrix_is_one = True

    def fasterprune(self, sparsity, prunen=0, prunem=0, blocksize=128, percdamp=0.01):
        options = sparsity, prunen, prunem, blocksize, percdamp
        self.give(self.layer, published.fasterprune(self.dense(), self.hessian(), *options))


class TrueOBS(_Published):
    matrix_is_one = False

    def __init__(self, layer, log_file=None, always_damp=0):
        super().__init__(layer)

    def _order(self, size):
        order = torch.arange(self.columns)
        if size > 1 and isinstance(self.layer, nn.Conv2d):
            order = order.reshape(self.layer.weight.shape[1:]).permute(1, 2, 0).flatten()
        return order

    def prepare_unstr(self):
        self.size = 1

    def prepare_blocked(self, size=4):
        self.size = size

    def prune_unstr(self, sparsities):
        order = self._order(self.size)
        weight, h = self.dense()[:, order], self.hessian()[order][:, order]
        pruned = published.trueobs_prune(weight, h, sparsities, self.size)
        return [one[:, order.argsort()].float() for one in pruned]

    prune_blocked = prune_unstr

    def prune_struct(self, sparsities, size=1):
        weight, hinv = published.trueobs_prepare(self.dense(), self.hessian())
        count = self.columns // size
        steps = [min(count, -int(-count * s // 1) + 1) if s else 0 for s in sparsities]
        return [structured_columns(weight, hinv, k, size)[2].float() for k in steps]


class SparseGPTSuperFast(_Published):
    matrix_is_one = True

    def __init__(self, layer, model_num):
        super().__init__(layer)
        self.samples = [[] for _ in range(model_num)]
        self.batches = self.samples[0]
        self.counter = 0

    def inc_model_counter(self):
        self.counter += 1
        self.batches = self.samples[self.counter] if self.counter < len(self.samples) else []

    def fasterprune(self, sparsity, layers, prunen=0, prunem=0, blocksize=128, percdamp=0.01):
        for layer, batches in zip(layers, self.samples, strict=True):
            options = sparsity, prunen, prunem, blocksize, percdamp
            h = published.running_hessian(batches)
            self.give(layer, published.batch_fasterprune(self.dense(), h, *options))


CLASSES = {"SparseGPT": SparseGPT, "TrueOBS": TrueOBS, "SparseGPTSuperFast": SparseGPTSuperFast}
