"""The processes of a launcher that share every batch."""
