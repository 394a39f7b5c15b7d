"""Labelling by likelihood: which action led to each frame of a video, by Bayes."""
