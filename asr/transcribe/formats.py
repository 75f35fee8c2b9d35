"""Transcripts as text that others read."""

from __future__ import annotations

import json
from dataclasses import asdict

from asr.records import Transcript


def as_text(transcript: Transcript) -> str:
    return transcript.text


def as_json(transcript: Transcript, file: str) -> str:
    """One JSON object on one line: file, duration (s), text, and words with start, end (s) and confidence (0..1)."""
    words = [asdict(word) for word in transcript.words]
    document = {"file": file, "duration": transcript.duration, "text": transcript.text, "words": words}
    return json.dumps(document, ensure_ascii=False)
