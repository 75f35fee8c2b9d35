"""Training in several processes together, over gloo on one machine: the same run as in one process."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy
from commands import SERVER
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from asr import cli, recipe, runtime
from asr.data.corpora import open_corpora
from asr.data.listing import Listing
from asr.data.shards import write_shards
from asr.errors import AsrError, RecipeError, TrainingError
from asr.recipe.reading import validate_recipe
from asr.train import acoustic
from asr.train.language import train_language_model
from asr.train.monitor import Monitor
from asr.train.prepare import is_begun
from asr.train.state import Progress
from asr.train.stretch import Contents, go_on, steps_in_all


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """25 utterances in 17 batches; one utterance cannot be read."""
    folder = tmp_path_factory.mktemp("corpus")
    toy.write_corpus(folder, 25, name="train")
    toy.write_corpus(folder, 5, seed=9, name="dev")
    (folder / "train" / "7.flac").write_bytes(b"fLaC, but no more")
    toy.write_lexicon(folder / "lexicon.txt")
    return folder


@pytest.fixture(scope="module")
def tar(corpus) -> dict[str, str]:
    """A source that has the 24 utterances that can be read in several tar files."""
    listing = Listing(open_corpora(settings_of(corpus).corpora.train, corpus))
    write_shards(listing, corpus / "tar", shard_hours=8 / 3600)
    assert len(list((corpus / "tar").glob("*.tar"))) > 3
    return {"kind": "lhotse", "path": "tar"}


def settings_of(corpus: Path, source: dict[str, str] | None = None, **training: object) -> recipe.Recipe:
    """Phones, dropout, SpecAugment, an n-gram of labels, pronunciations chosen before the second epoch."""
    raw = toy.recipe(text={"tokeniser": {"kind": "phones", "lexicon": str(corpus / "lexicon.txt")}})
    if source:
        raw["corpora"] = {**raw["corpora"], "train": [source]}
    small = {
        "epochs": 2,
        "max_batch_seconds": 3.2,
        "criterion": {"kind": "ctc_crf", "order": 2},
        "choose_pronunciations": 1,
    }
    return validate_recipe({**raw, "training": {**raw["training"], **small, **training}}, "toy")


def train(
    settings: recipe.Recipe,
    directory: Path,
    corpus: Path,
    stop_rank: int = -1,
    stop_after: int = 0,
    stop_by: signal.Signals = signal.SIGTERM,
):
    """Trains, and returns the steps, and batch by batch the epoch and the ids that this process trained on. The process
    ``stop_rank`` gets the signal ``stop_by`` after so many batches."""
    heard: list[tuple[int, tuple[str, ...]]] = []

    class Recording(acoustic.AcousticTask):
        def epoch(self, number, **share):
            self.number = number
            return super().epoch(number, **share)

        def loss(self, model, batch):
            heard.append((self.number, batch.ids))
            if runtime.rank() == stop_rank and len(heard) == stop_after:
                os.kill(os.getpid(), stop_by)
            return super().loss(model, batch)

    acoustic.AcousticTask = Recording
    steps = None
    with contextlib.suppress(TrainingError) if stop_rank >= 0 else contextlib.nullcontext():
        meta = acoustic.train_acoustic_model(settings, directory, root=corpus, device="cpu", resume=True)
        steps = meta["training"]["steps"]
    return steps, heard


def _train_twice(settings: recipe.Recipe, first: Path, second: Path, corpus: Path) -> None:
    for directory in (first, second):
        acoustic.train_acoustic_model(settings, directory, root=corpus, device="cpu")


def together(world: int, work, *arguments):
    """What ``work`` returns, or the error that it raises, in each of ``world`` processes that are joined."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    try:
        for rank in range(world):
            ours, theirs = SERVER.Pipe(duplex=False)
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            environment = {
                **{name: str(number) for name, number in numbers.items()},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"},
            }
            process = SERVER.Process(target=_work, args=(theirs, environment, work, arguments))
            process.start()
            theirs.close()
            running.append((process, ours))
        return [_result(ours) for _, ours in running]
    finally:
        for process, _ in running:
            process.kill()


def _result(connection):
    assert connection.poll(250), "a process hangs"
    try:
        return connection.recv()
    except EOFError:
        return None  # it died


def _work(result, environment, work, arguments) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    Monitor._draw = lambda _monitor: None  # pictures take longer than these trainings
    try:
        with runtime.joined("cpu"):
            done = work(*arguments)
    except AsrError as error:
        done = error
    result.send(done)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    names = ("model.safetensors", "last.safetensors")
    return {f"{name}/{key}": tensor for name in names for key, tensor in load_file(directory / name).items()}


def figures(directory: Path) -> list[dict]:
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    timed = ("minutes", "audio_hours_per_hour")
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


def same_weights(one: Path, other: Path) -> bool:
    found = weights(other)
    return all(torch.equal(tensor, found[name]) for name, tensor in weights(one).items())


def heard_by_all(results, epoch: int) -> list[str]:
    return sorted(id for _, heard in results for number, ids in heard if number == epoch for id in ids)


@pytest.fixture(scope="module")
def everything(corpus) -> list[str]:
    rows = map(json.loads, (corpus / "train.jsonl").read_text().splitlines())
    return sorted(row["id"] for row in rows if row["id"] != "train-7")


@pytest.fixture(scope="module")
def accumulated(corpus, tmp_path_factory):
    """One process, two batches a step."""
    directory = tmp_path_factory.mktemp("models") / "accumulated"
    [(steps, _)] = together(1, train, settings_of(corpus, accumulate=2), directory, corpus)
    return directory, steps


def test_two_processes_train_what_one_trains_with_two_batches_a_step_bit_for_bit(corpus, tmp_path, accumulated):
    expected, steps = accumulated
    found = tmp_path / "two"
    results = together(2, train, settings_of(corpus), found, corpus)
    assert [result[0] for result in results] == [steps, steps]
    assert same_weights(expected, found)
    assert figures(found) == figures(expected)
    chosen = [json.loads((folder / "training" / "pronunciations.json").read_text()) for folder in (expected, found)]
    assert chosen[0] == chosen[1]
    for name in ("pronunciations.txt", "tokenizer.json", "training/rejected.jsonl"):
        assert (found / name).read_text() == (expected / name).read_text()


def test_three_processes_hear_each_utterance_once_though_the_batches_do_not_divide_by_three(
    corpus, tmp_path, everything
):
    results = together(3, train, settings_of(corpus, epochs=1), tmp_path / "model", corpus)
    assert heard_by_all(results, 0) == everything
    assert len({steps for steps, _ in results}) == 1
    assert sum(len(heard) for _, heard in results) % 3


def test_two_processes_that_read_tar_files_and_are_killed_train_what_one_trains(corpus, tmp_path, tar, everything):
    window = {"shuffle_window": 8, "workers": 1, "save_minutes": 1e-6}
    settings = settings_of(corpus, tar, **window)
    [(steps, in_turn)] = together(1, train, settings_of(corpus, tar, accumulate=2, **window), tmp_path / "one", corpus)
    for epoch in (0, 1):
        assert heard_by_all([(steps, in_turn)], epoch) == everything
    killed = together(2, train, settings, tmp_path / "killed", corpus, 1, 4, signal.SIGKILL)
    assert killed[1] is None, "it died with what it had heard"
    stopped = state_of(tmp_path / "killed")["progress"]
    assert (stopped["epoch"], stopped["batch"]) == (0, 6), "three steps of two batches"
    rest = together(2, train, settings, tmp_path / "killed", corpus)
    assert [done for done, _ in rest] == [steps, steps]
    assert runtime.interleaved([heard for _, heard in rest]) == in_turn[6:]
    assert same_weights(tmp_path / "one", tmp_path / "killed"), "so the batches before the kill were those of one"


def test_four_processes_train_the_same_again_and_what_one_does_but_for_rounding(corpus, tmp_path):
    settings = settings_of(corpus, epochs=1, accumulate=4)
    together(4, _train_twice, settings_of(corpus, epochs=1), tmp_path / "first", tmp_path / "second", corpus)
    together(1, train, settings, tmp_path / "alone", corpus)
    assert same_weights(tmp_path / "first", tmp_path / "second")
    found = weights(tmp_path / "first")
    for name, tensor in weights(tmp_path / "alone").items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0)


def test_a_run_goes_on_with_fewer_processes_and_with_more_and_loses_no_utterance(corpus, tmp_path, everything):
    settings = settings_of(corpus, epochs=1, choose_pronunciations=None)
    parts = [
        together(2, train, settings, tmp_path / "model", corpus, 1, 2),  # a signal to one process stops both
        together(1, train, settings, tmp_path / "model", corpus, 0, 2),
        together(2, train, settings, tmp_path / "model", corpus),
    ]
    assert [[steps is None for steps, _ in part] for part in parts] == [[True, True], [True], [False, False]]
    assert sorted(id for part in parts for id in heard_by_all(part, 0)) == everything
    assert all(len(heard_by_all(part, 0)) > 0 for part in parts)


FREEZE = 6


def settings_from(model: Path, **training: object) -> recipe.Recipe:
    """Letters, features and encoder of the start model, whose first layers stand still for ``FREEZE`` steps."""
    raw = toy.recipe(start={"model": str(model), "freeze_steps": FREEZE})
    small = {"epochs": 1, "max_batch_seconds": 3.2, "save_minutes": 1e-6, **training}
    sections = {key: value for key, value in raw.items() if key not in ("features", "encoder")}
    return validate_recipe({**sections, "training": {**raw["training"], **small}}, "toy")


def state_of(directory: Path) -> dict:
    return torch.load(directory / "training" / "state.pt", weights_only=True)


def test_two_processes_begin_from_a_model_and_go_on_without_it_to_what_one_process_trains(corpus, tmp_path):
    model, found = toy.save_babbler(tmp_path / "babbler"), tmp_path / "two"
    before = load_file(model / "model.safetensors")
    [(steps, _)] = together(1, train, settings_from(model, accumulate=2), tmp_path / "one", corpus)
    together(2, train, settings_from(model), found, corpus, 1, 3)
    stopped = state_of(found)
    assert 0 < stopped["progress"]["step"] < FREEZE
    assert stopped["progress"]["batch"] == 2 * stopped["progress"]["step"], "steps of both together"
    still = {name for name, tensor in stopped["model"].items() if torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in before.keys() - still} == {"head"}
    shutil.rmtree(model)
    results = together(2, train, settings_from(model), found, corpus)
    assert [done for done, _ in results] == [steps, steps]
    assert steps > FREEZE
    after = state_of(found)["model"]
    assert not any(torch.equal(after[name], before[name]) for name in still if name.endswith("weight"))
    assert same_weights(tmp_path / "one", found)


def test_the_clock_of_the_first_process_ends_a_run_for_all(corpus, tmp_path):
    settings = settings_of(corpus, minutes=0.01, choose_pronunciations=None, dev_every=1000)
    results = together(2, train, settings, tmp_path / "model", corpus)
    assert results[0][0] == results[1][0] > 0


def _train_lstm(text: Path, directory: Path, **training: object) -> int:
    from asr.text.tokenise import CharacterTokeniser

    raw = {
        "sentences": {"train": [str(text)], "held_out": 0.1},
        "network": {"embedding": 8, "hidden": 16, "dropout": 0.2},
        "training": {"epochs": 1, "max_batch_characters": 64, "precision": "float32", "save_minutes": 1e-3, **training},
    }
    settings = validate_recipe({"kind": "language_model", **raw}, "toy", schema=recipe.LanguageModelRecipe)
    meta = train_language_model(settings, CharacterTokeniser(" abc"), directory, device="cpu")
    return meta["training"]["steps"]


def _two_batches_a_step(text: Path, directory: Path) -> int:
    return _train_lstm(text, directory, accumulate=2)


def test_a_language_model_too_is_what_one_process_trains(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a cab\nabba ab\nbab\n" * 20)
    alone = together(1, _two_batches_a_step, text, tmp_path / "alone")
    assert together(2, _train_lstm, text, tmp_path / "two") == alone * 2
    assert same_weights(tmp_path / "alone", tmp_path / "two")


def _die_or_ask() -> None:
    if runtime.rank() == 1:
        os._exit(1)
    runtime.everyones(None)


def test_a_process_whose_fellow_has_died_says_so():
    first, second = together(2, _die_or_ask)
    assert second is None
    assert isinstance(first, TrainingError)
    assert "process 0 of 2 has lost the others" in str(first)


def test_the_decay_goes_on_from_where_it_was_when_the_steps_of_an_epoch_are_others():
    settings, contents = recipe.TrainerSettings(epochs=10), Contents(utterances=20, train="abc", dev="def")
    progress = Progress()
    go_on(progress, settings, contents, processes=2)
    progress.epoch, progress.step = 3, 30
    assert (progress.decay_step, steps_in_all(progress, settings, 20)) == (30, 100)
    go_on(progress, settings, contents)  # half as many processes: three epochs are sixty of these steps
    assert (progress.decay_step, steps_in_all(progress, settings, 20)) == (60, 200)
    progress.epoch, progress.step = 4, 50
    go_on(progress, settings, contents, processes=2)
    assert (progress.decay_step, steps_in_all(progress, settings, 20)) == (40, 100)
    progress.epoch, progress.step, progress.finished = 10, 110, True
    longer, _, _ = go_on(progress, settings.model_copy(update={"epochs": 20}), contents, processes=4)
    assert (progress.decay_step, progress.stretch_step, steps_in_all(progress, longer, 20)) == (50, 50, 100)


def test_items_dealt_out_come_back_in_their_order():
    assert runtime.interleaved([[0, 3, 6], [1, 4], [2, 5]]) == list(range(7))
    assert runtime.interleaved([[0], []]) == [0]


def test_several_processes_of_a_machine_share_its_memory_and_cores(monkeypatch):
    memory, workers = runtime.free_memory(), runtime.default_workers()
    monkeypatch.setattr(runtime, "world", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert runtime.free_memory() < memory / 3
    assert 1 <= runtime.default_workers() <= workers


def test_a_process_that_has_no_gpu_of_its_own_says_how_many_there_are(monkeypatch):
    for name, value in {"WORLD_SIZE": "3", "LOCAL_RANK": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(AsrError, match="torchrun --nproc-per-node 2"), runtime.joined():
        pass
    with pytest.raises(AsrError, match='ask for "cuda" and not for "cuda:1"'), runtime.joined("cuda:1"):
        pass


def test_only_the_torchrun_that_began_a_run_goes_on_with_it_unasked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    assert not is_begun(tmp_path, resume=False)
    (tmp_path / "recipe.yaml").touch()
    assert is_begun(tmp_path, resume=False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "other")
    for _ in range(2):  # torchrun starts it anew, and is told the same
        with pytest.raises(RecipeError, match="holds a run already"):
            is_begun(tmp_path, resume=False)
    assert is_begun(tmp_path, resume=True)
    assert is_begun(tmp_path, resume=False)


def test_a_torchrun_without_a_name_is_known_by_its_process(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert runtime.launch() == ""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert str(os.getppid()) in runtime.launch().split()
    assert runtime.launch() == runtime.launch()


def _train_and_die(corpus: Path, model: Path, recipe_path: Path) -> None:
    """As ``asr train`` under torchrun, which the second process leaves in its third batch, the first time."""
    torch.set_num_threads(1)
    Monitor._draw = lambda _monitor: None
    spend = acoustic.loss_of
    batches = itertools.count(1)

    def loss_of(*arguments):
        first_time = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if os.environ["RANK"] == "1" and next(batches) == 3 and first_time:
            os.kill(os.getpid(), signal.SIGKILL)
        return spend(*arguments)

    acoustic.loss_of = loss_of
    options = ["--data", str(corpus), "--out", str(model), "--device", "cpu"]
    cli.main(["train", str(recipe_path), *options], standalone_mode=False)


def test_after_the_death_of_a_process_torchrun_starts_all_anew_and_the_run_ends_as_if_none_had_died(
    corpus, tmp_path, accumulated
):
    path = tmp_path / "toy.yaml"
    path.write_text(settings_of(corpus, save_minutes=1e-3).model_dump_json())
    # What torchrun does with its command line, but that the processes are forked off from the server.
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="toy",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=1,
        start_method="forkserver",
    )
    elastic_launch(config, _train_and_die)(corpus, tmp_path / "model", path)
    assert same_weights(accumulated[0], tmp_path / "model")


@pytest.mark.slow
def test_torchrun_trains_with_the_command_of_the_guide(corpus, tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(settings_of(corpus, epochs=1, choose_pronunciations=None).model_dump_json())
    model = tmp_path / "model"
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "asr", "train", path]
    command += ["--data", corpus, "--out", model, "--device", "cpu"]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{model}: dev PER") == 1, "the first process alone says the result"
