"""Tensor operations that are written in plain PyTorch and differentiable twice.

Each module holds a public function and, where that function is not the plain formula, a
`*_reference` twin that is.
"""
