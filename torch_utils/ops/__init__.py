"""Twice-differentiable tensor operations: CUDA kernels on GPUs, plain PyTorch elsewhere.

Functions with kernels are also registered as `torch.ops.mate3d`.
"""

from torch_utils.ops import _library_upfirdn2d, bias_act, triplane_sample  # noqa: F401
