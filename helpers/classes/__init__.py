"""Clip classification: labelled folders to a classifier."""
