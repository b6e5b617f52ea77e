"""Comparisons: a grid of runs, what they share, one table and one page."""
