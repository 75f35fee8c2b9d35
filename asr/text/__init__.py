"""Text: how it is read from files, normalised, and spelled in tokens."""
