"""Tensor operations, differentiable twice: CUDA kernels for GPUs, plain PyTorch elsewhere.

The functions with kernels are registered as `torch.ops.mate3d` too.
"""

from torch_utils.ops import _library_upfirdn2d, bias_act, triplane_sample  # noqa: F401
