"""Strips of frames, videos, charts, and the pages of HTML that show them."""
