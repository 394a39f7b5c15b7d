"""What `rounds.py` is made of: real play as the flow reads it, and the head of the end on it."""
