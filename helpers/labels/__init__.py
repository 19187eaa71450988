"""Ratings and what they are about: names, sources, splits, raters."""
