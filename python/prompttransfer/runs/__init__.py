"""A run: every method on every target and seed, as jobs for one or more workers, with results in a folder."""
