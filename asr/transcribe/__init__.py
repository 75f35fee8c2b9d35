"""Transcription: audio to transcripts, transcripts to files."""
