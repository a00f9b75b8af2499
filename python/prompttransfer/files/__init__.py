"""Files, low down: whole or absent on disk, read with messages that say what is wrong, kept in a cache."""
