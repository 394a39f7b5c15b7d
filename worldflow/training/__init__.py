"""Pretraining: the codec first, then flow, denoiser and heads on its frozen latents."""
