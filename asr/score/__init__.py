"""Scores of any system's transcripts: read, aligned with what was said, counted and compared. No torch, no model."""
