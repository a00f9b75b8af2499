"""Settings of a run, with checks and error messages that name the setting and the expected value."""
