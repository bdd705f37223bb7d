"""Native Hessians, exact OBC and batched SparseGPT for PyTorch."""

from spade_ext import _compiled as _compiled  # refuses sources without their compiled part
from spade_ext import _ops as _ops  # registers the operations with torch
from spade_ext import compat, reference
from spade_ext._build import (
    build_info,
    cmake_prefix_path,
    cuda_is_available,
    include_dir,
    library_path,
)
from spade_ext.accumulator import HessianAccumulator
from spade_ext.errors import DampingWarning, SingularHessianError
from spade_ext.geometry import Conv2dGeometry
from spade_ext.hessian import hessian
from spade_ext.inverse import damped_inverse
from spade_ext.obc import OBCTrace, obc_prune, obc_trace
from spade_ext.prune_model import PrunedLayer, prune_model
from spade_ext.sparsegpt import (
    SparseGPTBatch,
    sparsegpt_prune,
    sparsegpt_prune_batch,
    sparsegpt_prune_layers,
)

__version__ = "0.1.0"

__all__ = [
    "Conv2dGeometry",
    "DampingWarning",
    "HessianAccumulator",
    "OBCTrace",
    "PrunedLayer",
    "SingularHessianError",
    "SparseGPTBatch",
    "build_info",
    "cmake_prefix_path",
    "compat",
    "cuda_is_available",
    "damped_inverse",
    "hessian",
    "include_dir",
    "library_path",
    "obc_prune",
    "obc_trace",
    "prune_model",
    "reference",
    "sparsegpt_prune",
    "sparsegpt_prune_batch",
    "sparsegpt_prune_layers",
]
