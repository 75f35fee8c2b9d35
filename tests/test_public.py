"""The public face, small and guarded; imports that do nothing."""

import subprocess
import sys

import asr


def test_the_public_names_are_these():
    records = [
        "AlignedText",
        "AlignedWord",
        "AsrError",
        "CtcDecoder",
        "Emissions",
        "ErrorCounts",
        "Heard",
        "Recogniser",
    ]
    records += ["Segment", "Trained", "Transcript", "Waveform", "Word"]
    assert asr.__all__ == [*records, "load", "train"]
    assert all(hasattr(asr, name) for name in asr.__all__)


def test_importing_the_package_imports_nothing_heavy():
    code = "import asr, sys; print([m for m in ('torch', 'numpy', 'pydantic', 'click') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
