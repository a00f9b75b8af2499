"""Backends: each has a function for every operation in the table. The registry chooses among them."""
