"""Edit 3D portraits with a repainted mask and a text prompt."""
