"""Coverage-guided fuzzing of everything that reads untrusted input: arguments of the operations, and files."""
