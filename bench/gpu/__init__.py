"""Everything that a machine with an NVIDIA GPU can tell within minutes: correctness first, then speed."""
