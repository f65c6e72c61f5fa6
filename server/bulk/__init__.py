"""A corpus of any size through the engine, each line once, whatever is killed on the way."""
