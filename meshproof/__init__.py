"""The public face of meshproof: the command line (one file per verb), the pytest plugin, `python -m meshproof`."""

__all__ = ["__version__"]

__version__ = "0.1.0"
