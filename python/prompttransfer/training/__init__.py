"""Training of a prompt on a frozen model."""
