"""What is predicted besides the picture: the reward, and whether the episode ends."""
