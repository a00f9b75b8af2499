"""Low-level files: atomic writes, reading with clear error messages, and the cache."""
