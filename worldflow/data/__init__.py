"""Episodes on disk, clips cut from them, and the conversion between frames and floats."""
