"""Text: how it is normalised, spelled in tokens, and scored."""
