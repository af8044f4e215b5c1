"""Training of the generator and of the diffusion prior."""
