"""The 2D prior, a Stable Diffusion with a ControlNet on label maps, for editing and training."""
