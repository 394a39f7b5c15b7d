"""Real play of a game, and a world's head of the end on it: for rounds.py and foreseen_ends.py."""
