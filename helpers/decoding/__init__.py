"""Containers, codecs and frames of a video file."""
