"""Backends: each is a function for every operation of the table; the registry chooses among them."""
