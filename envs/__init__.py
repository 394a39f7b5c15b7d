"""Gymnasium environments: real sources of video, and the learned world as an environment."""
