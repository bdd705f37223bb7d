"""The published exact OBC class."""

import math
import os
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from spade_ext.checks import MOST_DAMP, check_int, check_nm, check_range, check_tensor
from spade_ext.compat.layer import LayerHessian, PublishedLayer
from spade_ext.errors import DampingWarning
from spade_ext.obc import OBCTrace, obc_prune, obc_trace
from spade_ext.structured import least_squares, structured_columns


class TrueOBS(PublishedLayer):
    """The published exact OBC class of one layer, with the constructor of either published file.

    OBC's is `TrueOBS(layer, rel_damp=0)`, SPADE's is `TrueOBS(layer, log_file, always_damp=0)`. They differ in what
    they damp: OBC's adds rel_damp times the mean diagonal first, so that a damped column is never dead; SPADE's
    zeroes the weights of dead columns first, and takes the mean with a 1 for each of them. A number as second
    argument is rel_damp, a path is log_file.

    prune_unstr, prune_blocked, prune_struct and prune_unstr_balanced return weights; nmprune and resolve replace the
    layer's weight. n:m groups and blocks of a convolution run over channels first, as published (taps outermost).

    Args:
        layer: nn.Linear, nn.Conv2d or transformers Conv1D.
        log_file: The path that SPADE's class appends its notes to, or the number that is OBC's rel_damp.
        always_damp: Damping relative to the mean of the diagonal, as SPADE's class adds it.
        rel_damp: Damping relative to the mean of the diagonal, as OBC's class adds it.

    Attributes:
        H: Sum so far, 2 / nsamples * X X^T, float64 [D, D], or [groups, D, D] of a layer of groups. It can be set.
        nsamples: Samples so far.
        Losses: [R, steps + 1] half losses of each row's steps, after prepare_unstr or prepare_blocked.
        Traces: For each `parallel` rows a tensor [steps + 1, rows, D] of the weights after each step. It is computed
            when it is read, and takes R * D * (steps + 1) numbers.

    Example:
        >>> import torch
        >>> from spade_ext.compat import TrueOBS
        >>> layer = torch.nn.Linear(64, 32)
        >>> pruner = TrueOBS(layer)
        >>> pruner.add_batch(torch.randn(200, 64), None)
        >>> pruner.prepare_unstr()
        >>> half, most = pruner.prune_unstr([0.5, 0.9])
        >>> int((half == 0).sum())
        1024
    """

    def __init__(
        self,
        layer: nn.Module,
        log_file: str | os.PathLike[str] | float | None = None,
        always_damp: float = 0.0,
        rel_damp: float = 0.0,
    ) -> None:
        self._log: str | os.PathLike[str] | None = None
        if isinstance(log_file, (int, float)):
            rel_damp = log_file
        elif log_file is not None:
            self._log = os.fspath(log_file)
        self.rel_damp = check_range("TrueOBS", "rel_damp", rel_damp, 0.0, MOST_DAMP)
        self.always_damp = check_range("TrueOBS", "always_damp", always_damp, 0.0, MOST_DAMP)
        self._inputs: LayerHessian | None = LayerHessian(layer)
        self._describe(layer, self._inputs)
        self._resolve: torch.Tensor | None = None
        self._trace: OBCTrace | None = None
        self._prepared, self._parallel = (
            "",
            32,
        )  # the method that made the trace, and its rows per part
        self._inverse_order = torch.arange(self.columns)
        self._write(f"Start logging Hessian rows={self.rows}, columns={self.columns}")

    @property
    def H(self) -> torch.Tensor:
        """[D, D] or [groups, D, D] float64; changes in place count."""
        return self._held().read(torch.float64)

    @H.setter
    def H(self, value: torch.Tensor) -> None:
        self._held().write("TrueOBS.H", value.double())

    @property
    def nsamples(self) -> int:
        """Samples so far."""
        return self._held().samples

    @property
    def Losses(self) -> torch.Tensor:
        """[R, steps + 1]; entry 0 of each row is 0."""
        loss = self._made("Losses", "prepare_unstr or prepare_blocked").loss
        return F.pad(loss.flatten(0, -2), (1, 0))

    @property
    def Traces(self) -> list[torch.Tensor]:
        """Weights after each step: tensors [steps + 1, rows, D], on the CPU."""
        trace = self._made("Traces", "prepare_unstr or prepare_blocked")
        steps = trace.loss.shape[-1]
        each = [self._after(trace, torch.full(trace.loss.shape[:-1], k)) for k in range(steps + 1)]
        return list(torch.split(torch.stack(each).cpu(), self._parallel, 1))

    def set_mask(self, mask: torch.Tensor) -> None:
        """Take only the rows of a linear layer's inputs that the mask names: [B, T] for inputs [B, T, D]."""
        self.mask = mask

    def add_batch(self, inp: torch.Tensor, out: object = None, resolve: bool = False) -> None:
        """Add a batch of the layer's inputs; out is used with resolve only. Every row of a matrix is a sample.

        Args:
            inp: Inputs of the layer.
            out: With resolve: the outputs that `resolve` is to reproduce.
            resolve: Sum X out^T too.
        """
        function = "TrueOBS.add_batch"
        samples = len(check_tensor(function, "inp", inp)) if inp.ndim else 0
        if self.mask is not None and isinstance(self.layer, nn.Linear):
            rows = self.mask.reshape(-1).bool().to(inp.device)
            inp = inp.reshape(-1, inp.shape[-1])[rows]
            if isinstance(out, torch.Tensor):
                out = out.reshape(-1, out.shape[-1])[rows]
        inputs = self._held()
        before = inputs.samples
        inputs.add(function, inp)
        inputs.samples = before + samples
        if resolve:
            self._add_outputs(function, inp, check_tensor(function, "out", out))

    def _add_outputs(self, function: str, inp: torch.Tensor, out: torch.Tensor) -> None:
        if self._held().groups > 1:
            raise NotImplementedError(f"{function}: resolve is not offered for a layer of groups")
        if isinstance(self.layer, nn.Conv2d):
            layer = self.layer
            if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
                raise NotImplementedError(
                    f"{function}: resolve needs a convolution with numbers of zeros as padding, "
                    f"got padding={layer.padding!r}, padding_mode={layer.padding_mode!r}"
                )
            patches = F.unfold(
                inp, layer.kernel_size, layer.dilation, layer.padding, layer.stride
            )  # [B, D, N]
            inp, out = patches.transpose(1, 2), out.flatten(2).transpose(1, 2)
        inp, out = (x.reshape(-1, x.shape[-1]) for x in (inp, out))
        product = (inp.T @ out).double()  # [D, R]
        self._resolve = product if self._resolve is None else self._resolve + product

    def resolve(self) -> None:
        """Replace the layer's weight by the least-squares optimum for the outputs that were added with resolve."""
        if self._resolve is None:
            raise RuntimeError("TrueOBS.resolve: no outputs yet; call add_batch with resolve=True")
        hessian = self._held().hessians("TrueOBS.resolve")[0].double() * (self.nsamples / 2)
        dead = hessian.diagonal() < 1e-3
        hessian[dead, dead] = 1
        inverse = self.invert(hessian, damp=self.nsamples / 2)
        self._held().set_weight(self.layer, (inverse @ self._resolve).T)

    def invert(self, H: torch.Tensor, damp: float = 1.0) -> torch.Tensor:
        """The inverse of H [D, D] (or a batch), with damp on the diagonal where H is not positive definite."""
        check_tensor("TrueOBS.invert", "H", H, ndim=(2, 3))
        factor, info = torch.linalg.cholesky_ex(H)
        singular = info != 0
        if bool(singular.any()):
            self._tell_singular(damp)
            eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
            factor = torch.linalg.cholesky(H + damp * singular[..., None, None] * eye)
        return torch.cholesky_inverse(factor)

    def prepare_unstr(self, parallel: int = 32) -> None:
        """Compute the order of every weight; parallel is the number of rows per part of Traces."""
        self._prepare("prepare_unstr", None, parallel)

    def prepare_blocked(self, size: int = 4, parallel: int = 32) -> None:
        """Compute the order of blocks of `size` columns; parallel is the number of rows per part of Traces."""
        check_int("TrueOBS.prepare_blocked", "size", size, 1)
        if self.columns % size:
            raise ValueError(
                f"TrueOBS.prepare_blocked: size must divide the {self.columns} columns, got {size}"
            )
        self._prepare("prepare_blocked", size, parallel)

    def prune_unstr(self, sparsities: Sequence[float]) -> list[torch.Tensor]:
        """Weights [R, D] for each sparsity: the ceil(sparsity * numel) least losses of the layer go."""
        return self._prune("prune_unstr", "prepare_unstr", sparsities)

    def prune_blocked(self, sparsities: Sequence[float]) -> list[torch.Tensor]:
        """Weights [R, D] for each sparsity, in blocks."""
        return self._prune("prune_blocked", "prepare_blocked", sparsities)

    def prune_unstr_balanced(self, rem: int) -> torch.Tensor:
        """Weights [R, D] of which each row keeps `rem`, after prepare_unstr."""
        function = "TrueOBS.prune_unstr_balanced"
        check_int(function, "rem", rem, 0, self.columns)
        trace = self._made("prune_unstr_balanced", "prepare_unstr")
        return self._after(trace, torch.full(trace.loss.shape[:-1], self.columns - rem))

    def prune_struct(self, sparsities: Sequence[float], size: int = 1) -> list[torch.Tensor]:
        """Weights [R, D] for each sparsity, without whole blocks of `size` consecutive columns.

        As published, ceil(sparsity * D / size) + 1 blocks go, and none at sparsity 0.
        """
        function = "TrueOBS.prune_struct"
        ratios = self._ratios(function, sparsities)
        count = self.columns // check_int(function, "size", size, 1)
        if self.columns % size:
            raise ValueError(f"{function}: size must divide the {self.columns} columns, got {size}")
        if self._held().groups > 1:
            raise NotImplementedError(f"{function}: not offered for a layer of groups")
        weights, hessians, _ = self._ordered(columns_last=False)
        weight, hessian = weights[0].double(), hessians[0]
        steps = [min(count, math.ceil(count * ratio) + 1) if ratio else 0 for ratio in ratios]
        hinv = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        order, _ = structured_columns(weight, hinv, max(steps, default=0), size)
        result = []
        for step in steps:
            kept = torch.ones(count, dtype=torch.bool, device=weight.device)
            kept[order[:step]] = False
            solved = least_squares(weight, hessian, kept.repeat_interleave(size))
            result.append((solved if step else weight).float())
        return result

    def nmprune(self, n: int = 2, m: int = 4, parallel: int = 32) -> None:
        """Prune the layer in place, n of each m weights; parallel is ignored."""
        check_nm("TrueOBS.nmprune", n, m, self.columns)
        weights, hessians, inverse = self._ordered(columns_last=True)
        pruned = obc_prune(weights, hessians, n=n, m=m, damp=0.0)
        self._held().set_weight(self.layer, pruned.flatten(0, 1)[:, inverse])

    def free(self) -> None:
        """Drop the sums and the trace."""
        self._inputs = self._trace = self._resolve = None

    def _held(self) -> LayerHessian:
        if self._inputs is None:
            raise RuntimeError("TrueOBS: free() was called")
        return self._inputs

    def _write(self, text: str) -> None:
        if self._log is not None:
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(text + "\n")

    def _tell_singular(self, damp: float) -> None:
        self._write(f"rows={self.rows}, columns={self.columns}, Hessian not full rank.")
        warnings.warn(
            f"TrueOBS: the Hessian is not positive definite; {damp:g} was added to its diagonal",
            DampingWarning,
            stacklevel=4,
        )

    def _ordered(self, columns_last: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weights and damped Hessians of the groups, and the permutation back to the layer's columns."""
        inputs = self._held()
        order = torch.arange(self.columns)
        if columns_last and isinstance(self.layer, nn.Conv2d):
            taps = order.reshape(self.layer.weight.shape[1:])
            order = taps.permute(1, 2, 0).flatten()
        hessians = inputs.hessians("TrueOBS").double()
        diagonal = hessians.diagonal(dim1=1, dim2=2)
        diagonal += self.rel_damp * diagonal.mean(1, keepdim=True)
        dead = diagonal == 0
        diagonal[dead] = 1
        diagonal += self.always_damp * diagonal.mean(1, keepdim=True)
        singular = torch.linalg.cholesky_ex(hessians)[1] != 0
        if bool(singular.any()):
            self._tell_singular(1.0)
        diagonal += singular[:, None]  # as published: a singular H takes the identity
        weights = inputs.weight().float().reshape(inputs.groups, -1, self.columns)
        weights = weights.masked_fill(dead[:, None], 0)[:, :, order]
        return weights, hessians[:, order][:, :, order], order.argsort()

    def _prepare(self, method: str, block: int | None, parallel: int) -> None:
        self._parallel = check_int(f"TrueOBS.{method}", "parallel", parallel, 1)
        weights, hessians, self._inverse_order = self._ordered(columns_last=block is not None)
        self._trace = obc_trace(weights, hessians, block=block, damp=0.0)
        self._prepared = method

    def _made(self, name: str, preparation: str) -> OBCTrace:
        """The trace, if one of the preparations named made it."""
        self._held()
        if self._trace is None or self._prepared not in preparation.split(" or "):
            raise RuntimeError(f"TrueOBS.{name}: no trace yet; call {preparation} first")
        return self._trace

    def _after(self, trace: OBCTrace, counts: torch.Tensor) -> torch.Tensor:
        """[R, D] float32 in the layer's order of columns after so many steps of each row."""
        pruned = trace.prune_rows(counts.to(trace.order.device)).flatten(0, 1)
        return pruned[:, self._inverse_order].float()

    @staticmethod
    def _ratios(function: str, sparsities: Sequence[float]) -> list[float]:
        if isinstance(sparsities, (float, int, str)) or not isinstance(sparsities, Iterable):
            raise TypeError(
                f"{function}: sparsities must be a list of numbers, got {type(sparsities).__name__}"
            )
        return [check_range(function, "sparsities", s, 0.0, 1.0) for s in sparsities]

    def _prune(
        self, method: str, preparation: str, sparsities: Sequence[float]
    ) -> list[torch.Tensor]:
        trace = self._made(method, preparation)
        loss = trace.loss
        order = loss.flatten().argsort(stable=True) // loss.shape[-1]  # row of each loss, ascending
        result = []
        for ratio in self._ratios(f"TrueOBS.{method}", sparsities):
            gone = order[: math.ceil(loss.numel() * ratio)]
            counts = gone.bincount(minlength=self.rows).reshape(loss.shape[:-1])
            result.append(self._after(trace, counts))
        return result
