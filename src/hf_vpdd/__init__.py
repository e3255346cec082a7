"""Robot policies from video pre-training with discrete diffusion, for transformers and diffusers."""

from .version import __version__


__all__ = ["__version__"]
