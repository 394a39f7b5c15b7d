"""Detectors of strangeness: the world's likelihood, and what others use for the same purpose."""
