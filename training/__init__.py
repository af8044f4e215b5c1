"""Training of the generator, the diffusion prior and the feature network."""
