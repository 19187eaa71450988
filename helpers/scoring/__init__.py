"""Scores of videos and of trees, as files and pages."""
