"""A trained prompt at work: texts in, answers out; a prompt file scored on a task."""
