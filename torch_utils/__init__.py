"""Ground floor: tensor operations that depend on PyTorch alone."""
