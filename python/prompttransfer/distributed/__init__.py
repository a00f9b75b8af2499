"""Processes of a launcher that share every batch."""
