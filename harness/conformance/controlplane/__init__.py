"""The control plane: what it accepts, how fast and how safely it changes a running mesh (C1-C16)."""
