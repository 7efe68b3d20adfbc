"""Weights from and to transformers, timm and open_clip, without torch; see `python -m vitfm.interop --help`."""
