"""Mixtures of sources."""
