"""Weights in files: published, converted, checked, and our own models' versions."""
