"""One run: the loop over phases, and its files."""
