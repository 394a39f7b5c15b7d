"""How dreams change over a long horizon, whatever dreams them."""
