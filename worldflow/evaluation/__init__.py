"""Measures of a world on held-out episodes, and the pictures and reports that show them."""
