"""A small autoregressive diffusion world, the baseline that a flow is compared with."""
