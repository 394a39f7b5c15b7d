"""What offline data are read from: a module for each format, and the registry of them all."""
