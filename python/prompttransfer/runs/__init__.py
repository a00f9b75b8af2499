"""A run: every method on every target and seed, as jobs that workers share, into a folder."""
