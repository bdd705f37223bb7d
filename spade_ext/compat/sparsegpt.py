"""The published SparseGPT class and its form batched over samples."""

from collections.abc import Sequence

import torch
from torch import nn

from spade_ext.checks import MOST_DAMP, check_int, check_nm, check_range
from spade_ext.compat.layer import LayerHessian, PublishedLayer
from spade_ext.errors import SingularHessianError
from spade_ext.inverse import warn_damping
from spade_ext.reference.published import LEAST_BATCH_DAMP
from spade_ext.sparsegpt import SparseGPTBatch, sparsegpt_prune_batch


def _floored(sparsity: float, rows: int, columns: int, blocksize: int) -> float:
    """The sparsity for which the op's floor is the published int(numel * sparsity) in every block.

    The op takes 0.57 of 100 weights as 57, int(100 * 0.57) is 56.
    """
    sizes = {rows * width for width in (min(blocksize, columns), columns % blocksize) if width}
    return max((int(size * sparsity) / size for size in sizes if size), default=0.0)


def _check_options(
    function: str,
    columns: int,
    sparsity: float,
    prunen: int,
    prunem: int,
    blocksize: int,
    percdamp: float,
) -> None:
    """Check the arguments of fasterprune under the names that the caller knows."""
    check_range(function, "sparsity", sparsity, 0.0, 1.0)
    if prunen:
        check_nm(function, prunen, prunem, columns, ("prunen", "prunem"))
    check_int(function, "blocksize", blocksize, 1)
    check_range(function, "percdamp", percdamp, 0.0, MOST_DAMP)


def _fasterprune(
    inputs: LayerHessian,
    hessians: torch.Tensor,
    sparsity: float,
    prunen: int,
    prunem: int,
    blocksize: int,
    damp: float,
) -> tuple[torch.Tensor, SparseGPTBatch]:
    """Prune the layer for hessians [S, groups, D, D]: weights [S, R, D], and of [S * groups] damping and failures."""
    samples, groups, cols = len(hessians), inputs.groups, inputs.columns
    stacked = inputs.weight().float().reshape(1, groups, -1, cols).expand(samples, -1, -1, -1)
    batch = sparsegpt_prune_batch(
        stacked.flatten(0, 1), hessians.flatten(0, 1).float(),
        _floored(sparsity, inputs.rows // groups, cols, blocksize), block_size=blocksize,
        n=prunen or None, m=prunem if prunen else None, damp=damp, extra=1,
    )  # fmt: skip
    return batch.weights.reshape(samples, -1, cols), batch


class SparseGPT(PublishedLayer):
    """The published class of one layer.

    Args:
        layer: nn.Linear, nn.Conv2d or transformers Conv1D. fasterprune replaces its weight.

    Attributes:
        H: Sum so far, 2 / nsamples * X X^T, float32 [D, D], or [groups, D, D] of a layer of groups. It can be set.
        nsamples: Samples so far.

    Example:
        >>> import torch
        >>> from spade_ext.compat import SparseGPT
        >>> layer = torch.nn.Linear(64, 32)
        >>> pruner = SparseGPT(layer)
        >>> pruner.add_batch(torch.randn(200, 64), None)
        >>> pruner.fasterprune(0.5)
        >>> int((layer.weight == 0).sum())  # as published, one more than half
        1025
    """

    def __init__(self, layer: nn.Module) -> None:
        self._inputs: LayerHessian | None = LayerHessian(layer)
        self._describe(layer, self._inputs)

    @property
    def H(self) -> torch.Tensor:
        """[D, D] or [groups, D, D] float32; changes in place count."""
        return self._held().read(torch.float32)

    @H.setter
    def H(self, value: torch.Tensor) -> None:
        self._held().write("SparseGPT.H", value)

    @property
    def nsamples(self) -> int:
        """Samples so far."""
        return self._held().samples

    def add_batch(self, inp: torch.Tensor, out: object = None, blocksize: int = 1024) -> None:
        """Add a batch of the layer's inputs; out and blocksize are ignored."""
        self._held().add("SparseGPT.add_batch", inp, matrix_is_one=True)

    def fasterprune(
        self,
        sparsity: float,
        prunen: int = 0,
        prunem: int = 0,
        blocksize: int = 128,
        percdamp: float = 0.01,
    ) -> None:
        """Prune the layer in place: int(sparsity * numel) + 1 weights of each block go, or prunen of prunem.

        Raises:
            ValueError: An option is out of range.
            SingularHessianError: H is not positive definite even at damp = 1; the layer is as before.

        Warns:
            DampingWarning: More damping than percdamp was used.
        """
        function = "SparseGPT.fasterprune"
        inputs = self._held()
        _check_options(function, self.columns, sparsity, prunen, prunem, blocksize, percdamp)
        hessians = inputs.hessians(function)[None]
        weights, batch = _fasterprune(
            inputs, hessians, sparsity, prunen, prunem, blocksize, percdamp
        )
        if bool(batch.failed.any()):
            raise SingularHessianError(f"{function}: the Hessian is not positive definite")
        warn_damping(function, percdamp, float(batch.damp.max()))
        inputs.set_weight(self.layer, weights[0])

    def free(self) -> None:
        """Drop the sums."""
        self._inputs = None

    def _held(self) -> LayerHessian:
        if self._inputs is None:
            raise RuntimeError("SparseGPT: free() was called")
        return self._inputs


class BatchSparseGPT(PublishedLayer):
    """The class of the published SPADE code: one layer, model_num samples pruned together.

    Unlike SparseGPT it does not treat dead columns apart (their damped diagonal alone makes them cheap), damps by
    at least 1e-6, and prunes by magnitude where H is not positive definite then.

    Args:
        layer: nn.Linear, nn.Conv2d or transformers Conv1D with the dense weight. Not modified.
        model_num: The number of samples.

    Attributes:
        H: Sums so far, 2 / nsamples * X X^T of each sample, float32 [samples, D, D], or [samples, groups, D, D] of a
            layer of groups. It can be set; what is read is a copy.
        nsamples: Inputs of the current sample so far.
        model_counter: The sample that the next batches belong to.

    Example:
        >>> import torch
        >>> from spade_ext.compat import BatchSparseGPT
        >>> layer, copies = torch.nn.Linear(64, 32), [torch.nn.Linear(64, 32) for _ in range(2)]
        >>> pruner = BatchSparseGPT(layer, model_num=2)
        >>> for _ in copies:
        ...     pruner.add_batch(torch.randn(200, 64), None)
        ...     pruner.inc_model_counter()
        >>> pruner.fasterprune(0.5, copies)
        >>> int((copies[1].weight == 0).sum())
        1025
    """

    def __init__(self, layer: nn.Module, model_num: int) -> None:
        check_int("BatchSparseGPT", "model_num", model_num, 1)
        self._samples = [LayerHessian(layer) for _ in range(model_num)]
        self._describe(layer, self._samples[0])
        self.model_counter = 0

    @property
    def H(self) -> torch.Tensor:
        """[samples, D, D] or [samples, groups, D, D] float32, a copy."""
        return torch.stack([sample.read(torch.float32) for sample in self._samples])

    @H.setter
    def H(self, value: torch.Tensor) -> None:
        if not isinstance(value, torch.Tensor) or len(value) != len(self._samples):
            raise ValueError(
                f"BatchSparseGPT.H: H must hold {len(self._samples)} Hessians, "
                f"got {tuple(getattr(value, 'shape', ()))}"
            )
        for sample, hessian in zip(self._samples, value, strict=True):
            sample.write("BatchSparseGPT.H", hessian)

    @property
    def nsamples(self) -> int:
        """Inputs of the current sample so far."""
        current = self._samples[self.model_counter : self.model_counter + 1]
        return current[0].samples if current else 0

    def inc_model_counter(self) -> None:
        """The following batches belong to the next sample."""
        self.model_counter += 1

    def add_batch(self, inp: torch.Tensor, out: object = None, blocksize: int = 1024) -> None:
        """Add a batch of the current sample's inputs; out and blocksize are ignored."""
        if self.model_counter >= len(self._samples):
            raise RuntimeError(
                f"BatchSparseGPT.add_batch: model_counter must be below {len(self._samples)}, "
                f"got {self.model_counter}"
            )
        self._samples[self.model_counter].add("BatchSparseGPT.add_batch", inp, matrix_is_one=True)

    def fasterprune(
        self,
        sparsity: float,
        layers: Sequence[nn.Module],
        prunen: int = 0,
        prunem: int = 0,
        blocksize: int = 128,
        percdamp: float = 0.01,
    ) -> None:
        """Give layers[i] the weight pruned for sample i; by magnitude where its Hessian is singular.

        Raises:
            ValueError: Not one layer of the right size a sample, or an option is out of range. No layer is changed.
            RuntimeError: A sample without inputs, or free() was called.
        """
        function = "BatchSparseGPT.fasterprune"
        if not self._samples:
            raise RuntimeError("BatchSparseGPT: free() was called")
        if len(layers) != len(self._samples):
            raise ValueError(
                f"{function}: layers must hold {len(self._samples)} layers, got {len(layers)}"
            )
        first = self._samples[0]
        _check_options(function, self.columns, sparsity, prunen, prunem, blocksize, percdamp)
        for i, layer in enumerate(layers):
            weight = getattr(layer, "weight", None)
            if not isinstance(weight, torch.Tensor) or weight.numel() != first.weight().numel():
                got = tuple(weight.shape) if isinstance(weight, torch.Tensor) else "none"
                raise ValueError(
                    f"{function}: layers[{i}] must have a weight of {first.weight().numel()} entries, "
                    f"got {got} of {type(layer).__name__}"
                )
        hessians = torch.stack([s.hessians(function).float() for s in self._samples])
        diagonal = hessians.diagonal(dim1=-2, dim2=-1)
        mean = diagonal.mean(-1, keepdim=True)
        diagonal += (percdamp * mean).clamp(min=LEAST_BATCH_DAMP)
        options = (sparsity, prunen, prunem, blocksize, 0.0)
        weights, batch = _fasterprune(first, hessians, *options)
        singular = (batch.failed | (batch.damp > 0)).reshape(len(layers), first.groups)
        if bool(singular.any()):
            hessians[singular] = torch.eye(first.columns, device=hessians.device)
            again = singular.any(1)
            weights[again] = _fasterprune(first, hessians[again], *options)[0]
        for layer, weight in zip(layers, weights, strict=True):
            first.set_weight(layer, weight)

    def free(self) -> None:
        """Drop the sums."""
        self._samples = []
