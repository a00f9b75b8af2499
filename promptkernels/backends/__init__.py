"""Backends: one module each with the same function names, and the registry that chooses among them."""
