"""Stages as jobs of a scheduler."""
