"""What is to be transcribed, and where each form of each transcript goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr import files
from asr.audio import describe
from asr.errors import AsrError
from asr.records import Transcript
from asr.transcribe import folders, formats


@dataclass(frozen=True, slots=True)
class Job:
    """A recording, None being standard input, and where each form of its transcript goes."""

    recording: Path | None
    outputs: dict[str, Path]

    @property
    def name(self) -> str:
        return "-" if self.recording is None else describe(self.recording)

    def is_finished(self) -> bool:
        return (
            bool(self.outputs)
            and self.recording is not None
            and folders.is_finished(self.recording, self.outputs.values())
        )

    def write(self, transcript: Transcript) -> None:
        for form, path in self.outputs.items():
            with files.replacing(path) as file:
                file.write(formats.WRITERS[form](transcript, self.name) + "\n")


def plan(named: Sequence[str], recordings: Sequence[Path | None], out: Path, forms: Sequence[str]) -> list[Job]:
    """Where everything goes. Raises AsrError where a transcript would replace a recording."""
    found = [recording for recording in recordings if recording is not None]
    stems = folders.output_stems(found, folders.common_folder(named)) if found else {}
    jobs = []
    for recording in recordings:
        stem = out / (stems[recording] if recording else "standard-input")
        outputs = folders.output_paths(stem, forms)
        if recording and folders.direct(recording) in map(folders.direct, outputs.values()):
            raise AsrError(f"the transcript of {recording} would take its place: give another --out")
        jobs.append(Job(recording, outputs))
    return jobs
