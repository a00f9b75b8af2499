"""Checks and measurements on a machine with an NVIDIA GPU, within minutes: correctness first, then speed."""
