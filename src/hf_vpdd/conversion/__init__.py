"""Checkpoints of the original implementations -> this package."""
