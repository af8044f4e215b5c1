"""Hydra configurations; a package, so that an installed copy carries them too."""
