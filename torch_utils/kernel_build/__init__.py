"""Compile the CUDA kernels of `torch_utils.ops`, and keep them.

Separate from the operations, because setup.py uses it where PyTorch cannot be imported.
"""
