"""Benchmarks of the ocean workbook, one file per question: `python -m benchmarks` runs all of them in turn."""
