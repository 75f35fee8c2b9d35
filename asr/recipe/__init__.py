"""The whole recipe schema: a class a section, a field a key, defaults included. ``recipe.reading`` reads files."""

import zlib
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Rate = Annotated[int, Field(ge=80, le=450)]
Pitch = Annotated[int, Field(ge=0, le=100)]


def _low_to_high(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    if pair[0] > pair[1]:
        raise ValueError(f"expected low to high; found {list(pair)}")
    return pair


LowToHigh = AfterValidator(_low_to_high)


class Section(BaseModel):
    """A mapping in a recipe: unknown keys are faults, values are strict, numbers finite, results frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)
    is_advised: ClassVar[bool] = True
    """Whether a recipe's writer can use it: faults name no kind that Python code alone can give."""


# --------------------------------------------------------------------------------------------------- corpora


class CorpusSettings(Section):
    """What every corpus kind takes besides its own keys. ``leave_out`` names utterances by id, such as those in which
    something else is said than their text: ``asr evaluate --doubtful`` lists them."""

    name: str | None = None
    weight: PositiveFloat = 1.0
    speakers: tuple[Fraction, Fraction] = (0.0, 1.0)
    leave_out: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.speakers[0] >= self.speakers[1]:
            raise ValueError(f"speakers is a slice of [0, 1], low to high; found {list(self.speakers)}")
        return self

    def includes(self, speaker: str) -> bool:
        """Whether ``speaker`` hashes into this source's slice of [0, 1). The hash depends on the name alone, so slices
        that don't overlap share no speaker, whatever the corpus's order."""
        return self.speakers[0] <= place_of(speaker) < self.speakers[1]


def place_of(speaker: str) -> float:
    """Where in [0, 1) a speaker's name hashes to."""
    return zlib.crc32(f"speaker:{speaker}".encode()) / 2**32


class LibriSpeechCorpus(CorpusSettings):
    kind: Literal["librispeech"]
    path: str = "LibriSpeech"
    splits: Annotated[tuple[str, ...], Field(min_length=1)]
    download: bool = False
    mirror: str = "https://www.openslr.org/resources/12"


class ManifestCorpus(CorpusSettings):
    kind: Literal["manifest"]
    path: str


class FolderCorpus(CorpusSettings):
    kind: Literal["folder"]
    path: str


class CommonVoiceCorpus(CorpusSettings):
    kind: Literal["common_voice"]
    path: str
    split: str = "train"


class KaldiCorpus(CorpusSettings):
    kind: Literal["kaldi"]
    path: str


class LhotseCorpus(CorpusSettings):
    kind: Literal["lhotse"]
    path: str


class EspeakCorpus(CorpusSettings):
    kind: Literal["espeak"]
    vocabulary: Annotated[tuple[str, ...], Field(min_length=1)]
    words: Annotated[tuple[Positive, Positive], LowToHigh] = (1, 8)
    utterances: Positive
    languages: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "en-us",
        "en",
        "en-gb-x-rp",
        "en-gb-scotland",
        "en-029",
    )
    rate: Annotated[tuple[Rate, Rate], LowToHigh] = (130, 230)
    pitch: Annotated[tuple[Pitch, Pitch], LowToHigh] = (20, 80)
    seed: Seed = 1


class GivenCorpus(CorpusSettings):
    """What Python code gave to ``asr.train`` as the ``cuts`` of a split. It lies in no file, so nothing else has it."""

    is_advised: ClassVar[bool] = False
    kind: Literal["given"]
    split: Literal["train", "dev"]


Corpus = Annotated[
    LibriSpeechCorpus
    | ManifestCorpus
    | FolderCorpus
    | CommonVoiceCorpus
    | KaldiCorpus
    | LhotseCorpus
    | EspeakCorpus
    | GivenCorpus,
    Field(discriminator="kind"),
]


class HeldOut(Section):
    """A dev set held out of the training corpora: ``share`` of their utterances, in whole speakers where ``by`` says
    so. Which ones depends on the names of speakers (or utterances) alone."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    by: Literal["speaker", "utterance"] = "speaker"


class Subset(Section):
    """What ``rule`` holds out of the corpora ``of``, for dev, or what it leaves of them, for train. No recipe names
    one: it is what a split is where ``dev`` is a share of ``train``."""

    split: str
    of: tuple[Corpus, ...]
    rule: HeldOut


SOURCES_TAG, SHARE_TAG = "(corpora)", "(share)"
"""The two forms of ``dev``. pydantic puts them in a fault's path, where they tell its reader nothing."""


def _dev_form(value: Any) -> str:
    return SHARE_TAG if isinstance(value, dict | HeldOut) else SOURCES_TAG


class Corpora(Section):
    train: Annotated[tuple[Corpus, ...], Field(min_length=1)]
    dev: Annotated[
        Annotated[tuple[Corpus, ...], Field(min_length=1), Tag(SOURCES_TAG)] | Annotated[HeldOut, Tag(SHARE_TAG)],
        Discriminator(_dev_form),
    ]
    test: tuple[Corpus, ...] = ()

    def split(self, name: str) -> tuple[Corpus | Subset, ...]:
        """The sources of ``train``, ``dev`` or ``test``."""
        if isinstance(self.dev, HeldOut) and name != "test":
            return (Subset(split=name, of=self.train, rule=self.dev),)
        sources: tuple[Corpus, ...] = getattr(self, name)
        return sources


# ------------------------------------------------------------------------------------------------------ text


class Characters(Section):
    kind: Literal["characters"] = "characters"
    alphabet: str | None = None


class SentencePiece(Section):
    kind: Literal["sentencepiece"]
    vocabulary: Annotated[int, Field(ge=8)] = 500


class Phones(Section):
    """Units are a pronunciation lexicon's phones. ``lexicon`` is ``cmudict`` (American English, 39 phones, without
    stress), ``espeak`` (eSpeak NG's pronunciations of ``language``) or a file, relative to the data folder. What
    cmudict lacks, eSpeak NG pronounces. With ``separator`` a token of its own stands between two words."""

    kind: Literal["phones"]
    lexicon: str = "cmudict"
    language: str = "en-us"
    separator: bool = False


Language = Annotated[str, Field(pattern="^([A-Za-z]{2,3}(-[A-Za-z0-9]+)*)?$")]
"""A language's tag, "tr" or "pt-BR"; empty for one whose letters have the common small and capital forms."""


class Written(Section):
    """How text is written: ``normalise`` is its form (``asr.text.normalise``), and by ``language`` Turkish (tr) and
    Azeri (az) have a dotted and a dotless i."""

    normalise: Literal["none", "lower", "words"] = "words"
    language: Language = ""

    @property
    def form(self) -> str:
        """As ``normalise`` takes it: the form, and the language where there is one."""
        return f"{self.normalise} {self.language}".rstrip()


class Text(Written):
    tokeniser: Annotated[Characters | SentencePiece | Phones, Field(discriminator="kind")] = Characters()


# -------------------------------------------------------------------------------------------------- features


class FeatureSettings(Section):
    sample_rate: Annotated[int, Field(ge=4000, le=96000)] = 16000
    window: Annotated[float, Field(ge=0.005, le=0.5)] = 0.025
    shift: Annotated[float, Field(ge=0.001, le=0.1)] = 0.010
    mels: Annotated[int, Field(ge=8, le=256)] = 80
    normalise: Literal["utterance", "global", "none"] = "utterance"
    backend: Literal["torchaudio", "librosa"] = "torchaudio"


class LogMel(FeatureSettings):
    kind: Literal["log_mel"] = "log_mel"


class Mfcc(FeatureSettings):
    kind: Literal["mfcc"]
    coefficients: Annotated[int, Field(ge=2, le=256)] = 13
    deltas: bool = True

    @model_validator(mode="after")
    def _enough_mels(self) -> Self:
        if self.coefficients > self.mels:
            raise ValueError(f"{self.coefficients} coefficients need at least as many mels; found {self.mels}")
        return self


class SpecAugment(Section):
    time_masks: Count = 2
    time_frames: Count = 30
    time_fraction: Fraction = 0.2
    frequency_masks: Count = 2
    frequency_bins: Count = 15
    frequency_warp: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class Noise(Section):
    path: str
    snr: Annotated[tuple[float, float], LowToHigh] = (5.0, 25.0)
    probability: Fraction = 0.5


class Reverb(Section):
    probability: Fraction = 0.2


class Codec(Section):
    """Each utterance goes, with ``probability``, through one of ``kinds``: ``telephone`` is 8 kHz mu-law (G.711), the
    others are lossy at a random compression level."""

    kinds: Annotated[tuple[Literal["telephone", "mp3", "opus", "vorbis"], ...], Field(min_length=1)] = ("telephone",)
    probability: Fraction = 0.2


class Join(Section):
    """Utterances are padded with ``silence`` seconds and joined to others of the epoch, with silence between, up to a
    length drawn from 0 to ``longest`` seconds; ``probability`` is that of an utterance to begin such a group."""

    probability: Fraction = 0.9
    silence: Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0, le=10)]], LowToHigh] = (
        0.0,
        0.5,
    )
    longest: PositiveFloat = 8.0


class Augment(Section):
    speed: Annotated[tuple[Annotated[float, Field(ge=0.5, le=2.0)], ...], Field(min_length=1)] = (0.9, 1.0, 1.1)
    noise: Noise | None = None
    reverb: Reverb | None = None
    codec: Codec | None = None
    join: Join | None = None
    spec_augment: SpecAugment | None = SpecAugment()


# ----------------------------------------------------------------------------------------------------- model


class Convolution(Section):
    channels: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)] = (32, 32)
    subsampling: Literal[1, 2, 4] = 4

    @model_validator(mode="after")
    def _enough_layers(self) -> Self:
        if self.subsampling == 4 and len(self.channels) < 2:
            raise ValueError("subsampling 4 is two strides of 2, so it needs two channel counts or more")
        return self


class EncoderSettings(Section):
    """``dropout`` is between layers; its mask is drawn for every ``frame`` anew, or once for an ``utterance``, the same
    at all its frames (Gal & Ghahramani 2016)."""

    conv: Convolution | None = Convolution()
    layers: Annotated[int, Field(ge=1, le=32)] = 3
    hidden: Annotated[int, Field(ge=1, le=8192)] = 256
    layer_norm: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    dropout_mask: Literal["frame", "utterance"] = "frame"


class FeedForward(EncoderSettings):
    kind: Literal["feedforward"]
    context: Annotated[int, Field(ge=0, le=100)] = 5


class RecurrentSettings(EncoderSettings):
    """``recurrent_dropout`` is the share of the weights from state to state that each training batch goes without
    (Merity et al. 2018)."""

    bidirectional: bool = True
    recurrent_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    projection: Annotated[int, Field(ge=1, le=8192)] | None = None


class Rnn(RecurrentSettings):
    """``init`` is of the recurrent weights: ``uniform`` as PyTorch draws them, with a spectral radius of about 0.58, so
    that the state fades; ``orthogonal`` (Saxe et al. 2014) or, for a ReLU, ``identity`` (Le, Jaitly & Hinton 2015),
    which keep it, and from which training may explode."""

    kind: Literal["rnn"]
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    init: Literal["uniform", "orthogonal", "identity"] = "uniform"


class Gru(RecurrentSettings):
    kind: Literal["gru"]


class Lstm(RecurrentSettings):
    kind: Literal["lstm"] = "lstm"


class Own(EncoderSettings):
    """A class of the user's, for ``asr.train(…, encoder=…)``: ``name`` says which, "module:Class", and nothing is ever
    imported by it. The class reads of this section what it cares for; ``options`` are what it needs besides. It is held
    to ``conv.subsampling``, or to 1 without ``conv``."""

    kind: Literal["own"]
    name: Annotated[str, Field(min_length=1)]
    options: dict[str, bool | int | float | str | None] = {}


Encoder = Annotated[FeedForward | Rnn | Gru | Lstm | Own, Field(discriminator="kind")]
Recurrent = Rnn | Gru | Lstm


# -------------------------------------------------------------------------------------------------- training


class Ema(Section):
    kind: Literal["ema"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999


class LastK(Section):
    kind: Literal["last"]
    epochs: Positive = 5


class NoAveraging(Section):
    kind: Literal["none"]


class TrainerSettings(Section):
    """What the training loop itself reads, whatever it trains.

    ``minutes`` ends the run by the clock in place of ``epochs``, however many or few those would be. ``dev_every`` is
    in epochs; the last one is scored on the dev set in any case.
    """

    epochs: Positive = 50
    minutes: PositiveFloat | None = None
    dev_every: Positive = 1
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_steps: Count = 300
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip: PositiveFloat = 1.0
    accumulate: Positive = 1
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    averaging: Annotated[Ema | LastK | NoAveraging, Field(discriminator="kind")] = Ema()
    patience: Positive | None = None
    save_minutes: PositiveFloat = 5.0


class Ctc(Section):
    kind: Literal["ctc"] = "ctc"


class CtcCrf(Section):
    """CTC-CRF over an n-gram of the training transcripts' tokens, of ``order``; ``ctc`` times plain CTC beside it. The
    epochs before ``from_epoch``, counted from 0, train plain CTC."""

    kind: Literal["ctc_crf"]
    order: Literal[2, 3] = 2
    ctc: Annotated[float, Field(ge=0)] = 0.1
    from_epoch: Count = 0


class Intermediate(Section):
    """CTC on recurrent layer ``layer``, counted from 1, besides the criterion on the last one."""

    layer: Positive = 2
    weight: PositiveFloat = 0.3


class Consistency(Section):
    """CR-CTC (Yao et al. 2024): each batch is heard twice, with masks and dropout drawn anew, at twice the cost of a
    step, and ``weight`` times how far the two emissions diverge is added to the mean of their losses."""

    weight: PositiveFloat = 0.2


class Training(TrainerSettings):
    """``keep_audio`` keeps decoded recordings in memory from epoch to epoch; ``auto`` where they fit in a quarter of
    what is free. A Shar is read from beginning to end in each epoch; its utterances are shuffled, and parted into
    buckets by duration, within a window of ``shuffle_window`` of them.

    ``choose_pronunciations`` is the epoch, counted from 0, before which each utterance takes the pronunciations
    that the model's own alignment prefers; before it, and with null, words are said the first way of the lexicon.
    """

    criterion: Annotated[Ctc | CtcCrf, Field(discriminator="kind")] = Ctc()
    intermediate: Intermediate | None = None
    consistency: Consistency | None = None
    choose_pronunciations: Count | None = 3
    max_batch_seconds: PositiveFloat = 64.0
    utterance_seconds: Annotated[tuple[Annotated[float, Field(ge=0)], PositiveFloat], LowToHigh] = (0.1, 40.0)
    buckets: Positive = 10
    shuffle_window: Positive = 10000
    workers: Count | None = None
    keep_audio: bool | Literal["auto"] = "auto"


class Start(Section):
    """The model that training begins from, in place of random weights: ``english``, the built-in one, or a model
    directory, relative to the current folder.

    For ``freeze_steps`` steps the convolutions and the first ``freeze_layers`` recurrent layers keep its weights; an
    encoder of kind ``own`` is trained from the first step. With
    ``head: new`` the last layer begins anew, but for the blank, even where tokens are shared.
    """

    model: Annotated[str, Field(min_length=1)]
    freeze_steps: Count = 200
    freeze_layers: Count = 1
    head: Literal["shared", "new"] = "shared"


# -------------------------------------------------------------------------------------------------- decoding


class Greedy(Section):
    kind: Literal["greedy"] = "greedy"


class LstmFusion(Section):
    """An LSTM language model's part: ``weight`` times its log probability, of each new token in the search (``fuse``)
    or of the ``nbest`` best readings when that is over (``rescore``), and ``beta`` for each word."""

    path: str
    weight: Annotated[float, Field(ge=0)] = 0.3
    beta: float = 0.0
    mode: Literal["rescore", "fuse"] = "rescore"
    nbest: Positive = 50


class Calibration(Section):
    """What makes of a word of n tokens, whose posteriors' product is p, its confidence:
    sigmoid(``offset`` + ``slope`` log(p / (1 - p)) + ``length`` n), as ``asr tune`` fits it to a dev set, whose words
    have a ``mean`` confidence by it."""

    offset: float = 0.0
    slope: float = 1.0
    length: float = 0.0
    mean: Annotated[float, Field(gt=0, lt=1)] | None = None


class Beam(Section):
    """Paths are relative to the model directory.

    Thresholds are in nats: a token is tried where its log probability is at least ``token_threshold``, a prefix kept
    where its score is within ``score_threshold`` of the best. The language model's log probability is weighed by
    ``alpha``; with it each word earns ``beta``, and ``unknown`` besides where the language model lacks it.
    """

    kind: Literal["beam"] = "beam"
    width: Annotated[int, Field(ge=1, le=100_000)] = 64
    tokens: Positive = 32
    token_threshold: Annotated[float, Field(le=0)] = -5.0
    score_threshold: PositiveFloat = 10.0
    language_model: str | None = None
    alpha: Annotated[float, Field(ge=0)] = 0.5
    beta: float = 1.0
    unknown: float = -5.0
    lstm: LstmFusion | None = None
    lexicon: str | None = None
    hotwords: dict[str, float] = {}
    calibration: Calibration | None = None


class Phrases(Section):
    """One of the phrases of a grammar ``file`` (``decode.grammar``), whose path starts in the model directory; nothing
    where its confidence is below ``reject``. After ``pause`` seconds of silence another one may be said."""

    kind: Literal["phrases"]
    file: str
    reject: Fraction = 0.3
    pause: PositiveFloat = 0.8


Decoder = Annotated[Greedy | Beam | Phrases, Field(discriminator="kind")]


class Recipe(Section):
    """A whole recipe; the field names are the keys of the YAML file.

    With ``start``, what ``text``, ``features`` and ``encoder`` leave open is the start model's (``train.start``).
    """

    seed: Seed = 1
    data: str = "data"
    start: Start | None = None
    corpora: Corpora
    text: Text = Text()
    features: Annotated[LogMel | Mfcc, Field(discriminator="kind")] = LogMel()
    augment: Augment = Augment()
    encoder: Encoder = Lstm()
    training: Training = Training()
    decoder: Decoder = Greedy()

    @model_validator(mode="after")
    def _warps_mels_alone(self) -> Self:
        masks = self.augment.spec_augment
        if self.start and "features" not in self.model_fields_set:
            return self
        if masks and masks.frequency_warp and self.features.kind != "log_mel":
            raise ValueError("augment.spec_augment.frequency_warp needs features.kind: log_mel")
        return self

    @model_validator(mode="after")
    def _can_spell_what_is_joined(self) -> Self:
        tokeniser = self.text.tokeniser
        if self.augment.join and isinstance(tokeniser, Characters) and " " not in (tokeniser.alphabet or " "):
            raise ValueError("augment.join needs a space in text.tokeniser.alphabet, to set words apart")
        return self

    @model_validator(mode="after")
    def _has_the_middle_layer(self) -> Self:
        middle = self.training.intermediate
        if self.start and "encoder" not in self.model_fields_set:
            return self
        if middle and (not isinstance(self.encoder, Recurrent) or middle.layer >= self.encoder.layers):
            raise ValueError(
                f"training.intermediate.layer is a recurrent layer before the last; found {middle.layer} with "
                f"{self.encoder.layers} layers of kind: {self.encoder.kind}"
            )
        return self


# -------------------------------------------------------------------------------------------- language model


class Network(Section):
    """Embedding, one-directional LSTM layers, softmax. ``tied`` shares the embedding with the softmax (Press and Wolf
    2017): many parameters fewer where the vocabulary is large, nothing worth having with characters."""

    embedding: Annotated[int, Field(ge=1, le=8192)] = 64
    layers: Annotated[int, Field(ge=1, le=32)] = 1
    hidden: Annotated[int, Field(ge=1, le=8192)] = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    tied: bool = False


class Sentences(Written):
    """Text files, plain or .gz, one sentence a line. Without ``dev`` files, the last ``held_out`` of the sentences are
    the dev set. Sentences of more than ``longest`` characters are left out, by name."""

    train: Annotated[tuple[str, ...], Field(min_length=1)]
    dev: tuple[str, ...] = ()
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.01
    longest: Positive = 1000


class LanguageModelTraining(TrainerSettings):
    epochs: Positive = 3
    learning_rate: PositiveFloat = 2e-3
    max_batch_characters: Positive = 8192


class LanguageModelRecipe(Section):
    """A whole recipe of an LSTM language model."""

    kind: Literal["language_model"] = "language_model"
    seed: Seed = 1
    sentences: Sentences
    network: Network = Network()
    training: LanguageModelTraining = LanguageModelTraining()
