"""Losses: arrays -> scalar, without parameters or configuration."""
