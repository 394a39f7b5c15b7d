"""Measures of a world on held-out episodes, and the pages that report them."""
