"""The causal normalizing flow: local blocks within a frame, one global block across frames."""
