"""What is read from a frame besides its picture: the reward, and whether the episode ends."""
