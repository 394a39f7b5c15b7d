"""Video from a world: from nothing, from text, from an image, from a clip."""
