"""The loader as a recipe wants it: the one place where corpora meet the network's frames."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from asr import recipe, runtime
from asr.data.batches import Utterances, load_batches
from asr.data.decoded import Recordings
from asr.recipe.frames import emission_frames
from asr.records import Batch


def utterances(settings: recipe.Recipe) -> Utterances:
    """The loader's dataset for a recipe, without labels or augmentation."""
    features = settings.features
    return Utterances(
        sample_rate=features.sample_rate,
        normalisation=settings.text.form,
        emission_frames=functools.partial(emission_frames, features=features, conv=settings.encoder.conv),
    )


def plain_batches(
    settings: recipe.Recipe,
    cuts: Any,
    *,
    recordings: Recordings | None = None,
    featurise: Callable[[np.ndarray], np.ndarray] | None = None,
    skip: int = 0,
    every: int = 1,
) -> Iterator[Batch]:
    """A corpus as it is: nothing augmented, nothing refused but what cannot be read. ``skip`` and ``every`` as
    ``load_batches`` takes them."""
    return load_batches(
        cuts,
        dataclasses.replace(utterances(settings), recordings=recordings, featurise=featurise),
        max_batch_seconds=settings.training.max_batch_seconds,
        workers=workers(settings),
        skip=skip,
        every=every,
    )


def workers(settings: recipe.Recipe) -> int:
    """Loader processes: the recipe's number, or one per two cores."""
    return runtime.default_workers() if settings.training.workers is None else settings.training.workers
