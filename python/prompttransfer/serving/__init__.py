"""Use a trained prompt: answer texts, or score a prompt file on a task."""
