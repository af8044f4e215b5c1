"""Base layer: tensor operations and process utilities that depend only on PyTorch."""
