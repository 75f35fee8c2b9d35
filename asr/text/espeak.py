"""eSpeak NG: words in phones and text as speech, from the library in the espeakng-loader wheel."""

from __future__ import annotations

import ctypes
import difflib
import functools
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.errors import MissingExtraError, TextError
from asr.records import Waveform

# espeak-ng/speak_lib.h
_SYNCHRONOUS, _UTF8, _RATE, _PITCH = 2, 1, 1, 3
_BETWEEN = "|"
_IPA = 2 | ord(_BETWEEN) << 8
"""Phoneme mode: IPA, with a sign between two phones, which alone says that "t|ʃ" are two and "tʃ" is one."""
_STRESS = "ˈˌ"
_SYLLABLES = (
    *("ta", "та", "τα", "تا", "תא", "ता", "তা", "ਤਾ", "તા", "ତା", "தா", "తా", "ತಾ", "താ", "තා", "တာ", "ทา"),
    *("ტა", "տա", "ታ", "타", "たた", "好", "ᏔᏔ"),
)
"""A short word in each of the scripts that eSpeak NG reads. A language that has the script says it in a few phones;
another spells it out, with the script's name, or reads it in a second language."""
_FEW_PHONES = 5


class Engine:
    """The library, loaded and started. It keeps global state: one a process, which ``engine`` gives."""

    def __init__(self) -> None:
        import espeakng_loader

        self._data = Path(espeakng_loader.get_data_path())
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 200, os.fsencode(self._data.parent), 0)
        if self._rate <= 0:
            raise TextError(f"eSpeak NG does not start with its data in {self._data} (a path over 150 bytes?)")
        self._voice = ""
        self._to_phonemes = self._library.espeak_TextToPhonemes
        self._to_phonemes.restype = ctypes.c_char_p
        self._to_phonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
        self._blocks: list[np.ndarray] = []
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback(self._receive)  # kept: ctypes frees it with its last reference
        self._library.espeak_SetSynthCallback(self._callback)

    @property
    def variants(self) -> list[str]:
        """The voice variants, each of which speaks every language."""
        return sorted(path.name for path in (self._data / "voices" / "!v").iterdir() if path.is_file())

    @functools.cached_property
    def languages(self) -> dict[str, str]:
        """The codes of the languages that come with a dictionary, sorted, and the library's name of each one's voice.
        A voice may have many codes, and goes by the name of its file: no is nb's."""
        found = {}
        for path in sorted(path for path in (self._data / "lang").rglob("*") if path.is_file()):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            fields = [line.split() for line in lines if line.startswith(("language ", "dictionary "))]
            codes = [value for key, value, *_ in fields if key == "language"]
            own = [value for key, value, *_ in fields if key == "dictionary"] or [codes[0].split("-")[0]]
            if (self._data / f"{own[0]}_dict").is_file():
                found.update({code: path.name for code in codes if code not in found})
        return dict(sorted(found.items()))

    def speaks(self, voice: str) -> bool:
        """Takes up ``voice``, a language that a variant may follow (cy, de+f2), if there is one of that name."""
        if voice != self._voice:
            language, plus, variant = voice.partition("+")
            name = f"{self.languages.get(language, '')}{plus}{variant}"
            known = language in self.languages and self._library.espeak_SetVoiceByName(name.encode()) == 0
            self._voice = voice if known else ""
        return bool(voice) and voice == self._voice

    def say(self, text: str, *, rate: int, pitch: int) -> Waveform | None:
        """``text`` in the voice taken up, at ``rate`` words a minute and ``pitch`` 0..100; None where it fails."""
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._blocks.clear()
        utf8 = text.encode() + b"\0"
        if self._library.espeak_Synth(utf8, ctypes.c_size_t(len(utf8)), 0, 0, 0, _UTF8, None, None) != 0:
            return None
        samples = np.concatenate(self._blocks) if self._blocks else np.zeros(1, np.int16)
        return Waveform(samples=samples.astype(np.float32) / 32768, sample_rate=self._rate)

    def phonemes(self, text: str) -> str:
        """``text`` in IPA by the language taken up: ``|`` between phones, a space between words, stress and all."""
        rest = ctypes.c_char_p(text.encode())
        clauses = []
        while rest.value:
            clauses.append((self._to_phonemes(ctypes.byref(rest), _UTF8, _IPA) or b"").decode("utf-8", "replace"))
        return " ".join(clauses)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: object) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def engine(purpose: str = "a pronunciation by eSpeak NG") -> Engine:
    """The process's engine. Raises MissingExtraError, which says that ``purpose`` needs the package."""
    try:
        return _engine()
    except ImportError as error:
        raise MissingExtraError("espeakng-loader", "phones", purpose) from error


@functools.cache
def _engine() -> Engine:
    return Engine()


@dataclass(frozen=True, slots=True)
class Speller:
    """Words in the phones of one of eSpeak NG's languages: IPA, length kept, without stress.

    Raises TextError for a language that it does not know.
    """

    language: str

    def __post_init__(self) -> None:
        _take_up(self.language)

    def phones(self, word: str) -> tuple[str, ...]:
        """The phones of ``word``; none where it has no letters, or letters that the language does not use."""
        _take_up(self.language)
        scripts = _scripts(self.language)
        letters = [character for character in word if character.isalpha()]
        if not letters or (scripts and not all(_script(letter) in scripts for letter in letters)):
            return ()
        return _split(engine().phonemes(word))


def _take_up(language: str) -> None:
    if not engine().speaks(language):
        codes = list(engine().languages)
        near = difflib.get_close_matches(language, codes, n=3, cutoff=0.5) or codes[:: len(codes) // 6]
        raise TextError(
            f'eSpeak NG has no language "{language}": expected a code such as {", ".join(near)} '
            "(asr lexicon languages lists all of them)"
        )


def _split(phonemes: str) -> tuple[str, ...]:
    """The phones of an answer: ``l|ˈaɪ|b|ɹ`` is l aɪ b ɹ. "(en)" marks a change of language, and is no phone."""
    for sign in _STRESS:
        phonemes = phonemes.replace(sign, "")
    if "(" in phonemes:
        phonemes = _without_marks(phonemes)
    return tuple(phonemes.replace(_BETWEEN, " ").split())


def _without_marks(phonemes: str) -> str:
    kept, depth = [], 0
    for character in phonemes:
        depth += (character == "(") - (character == ")")
        if depth == 0:
            kept.append(" " if character == ")" else character)
    return "".join(kept)


@functools.cache
def _scripts(language: str) -> frozenset[str]:
    """The scripts that ``language`` is written in; none where eSpeak NG's answers leave it open."""
    _take_up(language)
    found = set()
    for syllable in _SYLLABLES:
        answer = engine().phonemes(syllable).strip()
        if " " not in answer and "(" not in answer and 0 < len(_split(answer)) <= _FEW_PHONES:
            found |= {_script(letter) for letter in syllable if letter.isalpha()}
    if "HIRAGANA" in found:
        found |= {"KATAKANA", "CJK"}
    return frozenset(found)


@functools.lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    """The script of a letter, the first word of its Unicode name: LATIN, CYRILLIC, CJK."""
    return unicodedata.name(letter, "").split(" ")[0]
