"""quantgate: a CI gate for quantized video-diffusion checkpoints."""

__version__ = "0.1.0"
