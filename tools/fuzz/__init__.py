"""Coverage-guided fuzzing of everything that reads what others wrote: arguments of the operations, files of people."""
