"""Settings of a run: what may be set, checked, with messages that name the setting and what is wanted."""
