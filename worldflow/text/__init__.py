"""Text that conditions a world: encoders of sentences, and the captions of data."""
