"""What can go wrong, as one tree.

    AsrError                 everything this package raises on purpose
    ├── RecipeError          a recipe that does not validate, every fault listed
    ├── CorpusError          a corpus, or a file of transcripts, that is missing, malformed or empty
    │   └── DownloadError    a download that failed, was cut, or does not match its checksum
    ├── AudioError           a recording that cannot be read
    ├── TextError            text that cannot be spelled, is missing or empty, or has no room in its recording
    ├── EmissionsError       emissions that are not of the tokeniser's tokens, or no log probabilities
    ├── LanguageModelError   a language model that is missing, malformed or damaged, or cannot be estimated
    ├── CheckpointError      a model directory that is missing, incomplete or not ours
    ├── ExportError          a model that another runtime cannot run as it was asked to
    ├── TrainingError        training that cannot go on (stopped, nothing to train on)
    │   ├── DivergenceError  a loss or gradient that is no number any more
    │   └── TrainingStopped  training that a signal has stopped, and that can go on
    └── MissingExtraError    an optional package that this feature needs

Each message is a sentence for the person at the terminal: what, where, found, expected, what to do. The command line
prints it after ``asr: `` and exits with code 1.
"""


class AsrError(Exception):
    """Base of every error that this package raises on purpose.

    Its message can be written anywhere: halves of characters, which JSON can spell and a file's name can hold, have no
    UTF-8 and are escaped in it.
    """

    def __str__(self) -> str:
        return super().__str__().encode(errors="backslashreplace").decode()


class RecipeError(AsrError):
    """A recipe does not validate. The message lists every fault, one a line."""


class CorpusError(AsrError):
    """A corpus, or a file of transcripts, is missing, malformed or empty."""


class DownloadError(CorpusError):
    """A download failed, was cut short, or does not match its checksum."""


class AudioError(AsrError):
    """A recording cannot be read."""


class TextError(AsrError):
    """Text that the tokeniser cannot spell, that is missing or empty, or that has no room in its recording."""


class EmissionsError(AsrError):
    """Emissions are not of the tokeniser's tokens, their lengths do not fit, or they are no log probabilities."""


class LanguageModelError(AsrError):
    """A language model is missing, malformed or damaged, or cannot be estimated from the text given."""


class CheckpointError(AsrError):
    """A model directory is missing, incomplete, or not one of ours."""


class ExportError(AsrError):
    """Another runtime cannot run a model as it was asked to."""


class TrainingError(AsrError):
    """Training cannot go on."""


class DivergenceError(TrainingError):
    """The loss or its gradient is no number any more."""


class TrainingStopped(TrainingError):
    """A signal has stopped the training, and its state is saved. ``where`` says where, ``how`` it goes on."""

    def __init__(self, where: str, how: str = "the same command goes on from here") -> None:
        super().__init__(f"{where}, and nothing is lost; {how}")
        self.where = where


class MissingExtraError(AsrError):
    """A feature needs an optional package that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        # "asr" on PyPI is another project's package, so the extra goes by a path: the clone's, or a wheel's.
        super().__init__(
            f'{purpose} needs the package "{package}", which is not installed: run '
            f"pip install '.[{extra}]' in the clone of this project, or pip install {package}"
        )
