"""The report: one file, whole, safe to open, and small enough to send."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from asr import recipe
from asr.cli import main
from asr.cli.evaluate import described
from asr.decode.calibration import reliability
from asr.records import Waveform, Word
from asr.report import FOLDED, OPEN, confused_characters, confused_words, write_report
from asr.report.clips import Clip, as_sound, worth_hearing
from asr.report.figures import as_svg
from asr.report.pages import public_name
from asr.report.pictures import DRAWN_RIGHT, DRAWN_WORST, worth_drawing
from asr.report.timeline import speech_figure
from asr.score.compare import compare
from asr.score.forms import Line
from asr.score.system import aligned

VOID = {"meta", "br", "path", "use", "rect", "line"}


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, text, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def system(name: str, utterances: int, wrong: float = 0.2, words: int = 20, speakers: int = 9):
    generator = np.random.default_rng(len(name))
    vocabulary = [f"word{i}" for i in range(300)]
    lines, hypotheses = [], []
    for i in range(utterances):
        said = [vocabulary[k] for k in generator.integers(0, 300, words)]
        heard = [vocabulary[generator.integers(300)] if generator.random() < wrong else word for word in said]
        lines.append(Line(id=f"u{i}", text=" ".join(said), speaker=f"s{i % speakers}", duration=1.0 + i % 15))
        hypotheses.append(" ".join(heard[generator.integers(2) :]))
    return aligned(name, lines, hypotheses)


def page_of(path: Path, *systems, **more) -> Page:
    write_report(path, "a title", systems, **more)
    return Page(path.read_text())


def test_the_page_holds_everything_and_loads_nothing(tmp_path):
    a, b = system("A", 60), system("BB", 60)
    generator = np.random.default_rng(0)
    measured = reliability(generator.random(500), generator.random(500) < 0.7)
    page = page_of(tmp_path / "out.html", a, b, facts=["a fact"], comparisons=compare([a, b]), reliability=measured)
    assert page.open == []
    assert len(page.tags("svg")) == 5  # by speaker and by duration of both, and the calibration
    assert len(page.tags("article")) == 120
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in page.found)
    for tag, attributes in page.found:
        assert "src" not in attributes
        for key in ("href", "xlink:href"):
            assert attributes.get(key, "#").startswith("#"), (tag, attributes)
    assert not re.search(r"url\((?!#)|@import", (tmp_path / "out.html").read_text())
    policy = next(a["content"] for a in page.tags("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    for said in ("a title", "a fact", f"{100 * a.words.rate:.2f}", "Expected calibration error", "BB against A"):
        assert said in page.text.replace("\xa0", " ")


def test_several_systems_begin_with_a_table_and_with_what_only_one_of_them_has_right(tmp_path):
    lines = [Line(id=f"u{i}", text=f"say {i}") for i in range(4)]
    a = aligned("A", lines, ["say 0", "say 1", "say x", "say y"])
    b = aligned("B", lines, ["say 0", "say z", "say 2", "say y"])
    write_report(tmp_path / "out.html", "a title", [a, b], comparisons=compare([a, b]))
    text = " ".join(re.sub("<[^>]+>|&nbsp;", " ", (tmp_path / "out.html").read_text()).split())
    assert text.index("system WER 95 % interval") < text.index("A right, B wrong") < text.index("word error rate")
    assert "A right, B wrong 1 utterance. utterance A, as it was said B u1 say 1 say z" in text
    assert "B right, A wrong 1 utterance. utterance B, as it was said A u2 say 2 say x" in text


def test_the_table_of_systems_has_their_sizes_and_leads_to_their_parts(tmp_path):
    a, b = (aligned(name, [Line(id="u", text="one two three")], ["one two"]) for name in "AB")
    page = page_of(tmp_path / "out.html", a, b, comparisons=compare([a, b]))
    table = page.text[page.text.index("The systems") : page.text.index("B against A")]
    head, *rows = (line for line in table.splitlines() if line.startswith(("system", "A", "B")))
    assert head.endswith("put inwordsutterances")
    assert [row[-4:] for row in rows] == ["1031", "1031"]  # left out, put in, words, utterances
    parts = [heading["id"] for heading in page.tags("h2") if "id" in heading]
    assert [link["href"] for link in page.tags("a")] == [f"#{part}" for part in parts]
    assert len(parts) == 2


def test_the_confidence_is_judged_by_words_that_are_counted_and_of_all_sets(tmp_path):
    measured = reliability(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]))
    both = page_of(tmp_path / "out.html", system("A", 5), system("BB", 5), reliability=measured)
    assert "3 words of all sets together." in both.text
    assert "3 words. Expected" in page_of(tmp_path / "out.html", system("A", 5), reliability=measured).text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("an4/test", "an4/test"),
        ("/home/anna/secret/test", "test"),
        ("../anna/test", "test"),
        ("Anna's set, .5", "Anna's set, .5"),
    ],
)
def test_of_a_path_outside_the_data_a_page_has_the_last_part_alone(name, shown):
    assert public_name(name) == shown


def test_a_page_names_no_private_folder_and_says_its_date(tmp_path):
    page = page_of(tmp_path / "out.html", aligned("/home/anna/secret/set", [Line(id="u", text="a")], ["a"]))
    assert "anna" not in page.text
    assert "set" in page.text.split()
    assert re.search(r"asr [\d.\w]+, \d{4}-\d{2}-\d{2}\.", page.text)


def test_ids_are_unique_and_the_colours_the_pages(tmp_path):
    page = page_of(tmp_path / "out.html", system("A", 60), system("BB", 60))
    ids = [attributes["id"] for tag, attributes in page.found if "id" in attributes and tag in ("clipPath", "h2")]
    assert len(ids) == len(set(ids))
    html = (tmp_path / "out.html").read_text()
    assert "prefers-color-scheme: dark" in html
    assert "#000000" not in html


def test_utterances_come_by_errors_and_all_but_the_first_are_folded(tmp_path):
    score = system("A", 200)
    page = page_of(tmp_path / "out.html", score)
    wrong = sum(1 for u in score.utterances if u.words.errors)
    counts = [int(n) for n in re.findall(r" · (\d+) of \d+", page.text)]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == wrong
    first = (tmp_path / "out.html").read_text().partition("<details>")[0]
    assert first.count("<article>") == OPEN
    assert len(page.tags("details")) == -(-(wrong - OPEN) // FOLDED) + -(-(200 - wrong) // FOLDED)


def test_speakers_may_be_called_what_matplotlib_takes_for_a_formula(tmp_path):
    lines = [Line(id=f"{i}", text="a b", speaker=r"$\foo$" if i % 2 else "$_$") for i in range(4)]
    page = page_of(tmp_path / "out.html", aligned("A", lines, ["a b", "a", "a b", "b"]))
    assert r"$\foo$ (2)" in page.text


def test_the_decoder_isdescribed_without_the_folders_of_its_files():
    decoder = recipe.Beam(
        language_model="/home/me/lm.arpa",
        lexicon="../words.txt",
        lstm=recipe.LstmFusion(path="/home/me/lstm_lm"),
        hotwords={"Kettering": 8.0},
        calibration=recipe.Calibration(),
    )
    said = described(decoder)
    assert "language_model lm.arpa, alpha 0.5" in said
    assert "lexicon words.txt" in said
    assert "LSTM (path lstm_lm, weight 0.3" in said
    assert "hotwords (Kettering 8.0)" in said
    assert not re.search(r"[/{}]|calibration", said)
    assert described(recipe.Greedy()) == "kind greedy"


def test_the_confusions_are_counted(tmp_path):
    lines = [Line(id="1", text="a b c"), Line(id="2", text="a b d"), Line(id="3", text="b")]
    score = aligned("A", lines, ["a x c", "a x", "b y"])
    assert [(c.reference, c.hypothesis, c.count) for c in confused_words(score, "substitution")] == [("b", "x", 2)]
    assert [(c.reference, c.hypothesis, c.count) for c in confused_words(score, "deletion")] == [("d", "", 1)]
    assert [(c.reference, c.hypothesis, c.count) for c in confused_words(score, "insertion")] == [("", "y", 1)]
    assert confused_characters(score)[0].count == 2
    page = page_of(tmp_path / "out.html", score)
    assert "b → x" in page.text


def test_where_words_are_not_spaced_the_page_counts_characters(tmp_path):
    lines = [Line(id=f"u{n}", text="今天天气很好", speaker=f"s{n % 2}", duration=2.0) for n in range(10)]
    write_report(tmp_path / "page.html", "a title", [aligned("A", lines, ["今天天汽很好"] * 9 + ["今天天气很好"])])
    page = (tmp_path / "page.html").read_text()
    assert "15.00&nbsp;%" in page
    assert "character error rate" in page
    assert "word error rate" not in page
    assert "60</b>" in page
    assert "characters in 10 utterances, 1 of them without error" in page
    assert "CER by speaker" in page
    assert '今天天<span class="s"><s>气</s> <u>汽</u></span>很好' in page
    assert "Words confused" not in page


def test_hostile_texts_stay_texts(tmp_path):
    evil = "<script>alert(1)</script> </p> &amp; \"' {{ 7 * 7 }}"
    score = aligned(evil, [Line(id=evil, text=evil, speaker=evil, duration=1.0)] * 2, [evil, "x"])
    write_report(tmp_path / "out.html", evil, [score], facts=[evil])
    page = Page((tmp_path / "out.html").read_text())
    assert page.tags("script") == []
    assert page.open == []
    assert "49" not in page.text
    assert evil in page.text


@pytest.mark.parametrize(
    ("lines", "hypotheses"),
    [
        ([Line(id="1", text="a")], ["a"]),  # nothing wrong, nothing known
        ([Line(id="1", text="")], ["b"]),  # an infinite rate
        ([Line(id="1", text="")], [""]),
        ([Line(id=f"{i}", text="a b", speaker="one", duration=0.0) for i in range(9)], ["a"] * 9),
        ([Line(id=f"{i}", text="a b", speaker=f"{i}", duration=99.0) for i in range(90)], ["a c"] * 90),
    ],
)
def test_odd_sets_have_a_page_too(tmp_path, lines, hypotheses):
    assert page_of(tmp_path / "out.html", aligned("odd", lines, hypotheses)).open == []


def test_a_thousand_utterances_stay_small(tmp_path):
    write_report(tmp_path / "out.html", "large", [system("A", 1000, wrong=0.4)])
    assert (tmp_path / "out.html").stat().st_size < 2_000_000


def test_score_writes_the_report(tmp_path):
    rows = [{"id": str(i), "text": "one two three", "speaker": f"s{i % 3}"} for i in range(12)]
    (tmp_path / "ref.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "hyp.txt").write_text("".join(f"{i} one too three\n" for i in range(12)))
    arguments = ["score", tmp_path / "ref.jsonl", tmp_path / "hyp.txt", "--report", tmp_path / "out.html"]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    page = Page((tmp_path / "out.html").read_text())
    assert "two → too" in page.text
    assert "normalisation basic" in page.text


# ------------------------------------------------------------------------------------------------ sounds and pictures


@pytest.mark.parametrize(("rate", "form"), [(8000, "MP3"), (16000, "MP3"), (10000, "FLAC")])
def test_a_clip_in_the_page_sounds_as_the_recording_does(tone, rate, form):
    samples = tone(1.5, 440.0, rate)
    head, _, content = as_sound(Waveform(samples=samples, sample_rate=rate)).partition(";base64,")
    assert head == {"MP3": "data:audio/mpeg", "FLAC": "data:audio/flac"}[form]
    file = soundfile.SoundFile(io.BytesIO(base64.b64decode(content)))
    heard = file.read(dtype="float32")
    assert (file.format, file.samplerate) == (form, rate)
    assert len(heard) / rate == pytest.approx(1.5, abs=0.1)
    assert np.abs(np.fft.rfft(heard[:rate])).argmax() == pytest.approx(440, abs=1)


def test_the_worst_are_heard_first_as_far_as_the_seconds_go():
    lines = [Line(id=f"{i}", text="a b c d", duration=10.0) for i in range(6)] + [Line(id="untimed", text="a")]
    score = aligned("A", lines, ["a b c d", "a b c", "a b", "a b c d", "a", "a b c d", "b"])
    assert worth_hearing(score, seconds=30.0) == {"4", "2", "1"}
    assert worth_hearing(score, [score.utterances[5]], seconds=30.0) == {"5", "4", "2"}
    assert len(worth_hearing(score, seconds=1e9)) == 6
    assert worth_hearing(score, seconds=0.0) == set()


def test_the_worst_are_drawn_and_the_longest_right_ones():
    score = system("A", 200, wrong=0.05)
    chosen = worth_drawing(score)
    assert [u.line.id for u in chosen[:DRAWN_WORST]] == [u.line.id for u in score.worst()[:DRAWN_WORST]]
    assert [u.words.errors for u in chosen[DRAWN_WORST:]] == [0] * DRAWN_RIGHT


def picture(tone) -> str:
    posteriors = np.full((25, 4), 0.01, np.float32)
    posteriors[:, 0] = 0.97
    posteriors[[5, 15]] = [[0.08, 0.02, 0.9, 0.0], [0.08, 0.02, 0.0, 0.9]]
    figure = speech_figure(
        Waveform(samples=tone(1.0), sample_rate=16000),
        posteriors=posteriors,
        tokens=("<blank>", " ", "a", "b"),
        frame_shift=0.04,
        words=[
            Word(text=text, start=start, end=start + 0.04, confidence=0.9) for text, start in (("a", 0.2), ("b", 0.6))
        ],
        colours=["#000000", "#9a5b00"],
    )
    return as_svg(figure, "a reading")


def test_a_picture_has_the_words_and_the_likely_tokens_in_the_pages_colours(tone):
    svg = picture(tone)
    written = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert [word for word in written if word in {"a", "b"}] == ["a", "b", "a", "b"]  # over the sound, then as rows
    assert "blank" in written
    assert "space" not in written  # never likely
    assert svg.count("var(--sub)") == 1  # "b"
    assert len(re.findall(r'href="data:image/png;base64,', svg)) == 2
    assert "#000000" not in svg


def test_players_and_pictures_are_in_the_page_and_nothing_outside_it(tmp_path, tone):
    score = system("A", 40)
    worst, *_ = score.worst()
    sound = as_sound(Waveform(samples=tone(1.0), sample_rate=16000))
    clips = {worst.line.id: Clip(sound=sound, picture=picture(tone)), "u1": Clip(sound=sound)}
    page = page_of(tmp_path / "out.html", score, clips=[clips])
    assert page.open == []
    assert [player["src"] for player in page.tags("audio")] == [sound, sound]
    images = [attributes for tag, attributes in page.found if tag == "image"]
    assert len(images) == 2
    for attributes in images:
        assert attributes["xlink:href"].startswith("data:image/png;base64,")
    assert "2 of 40 utterances can be heard" in page.text
    first = (tmp_path / "out.html").read_text().partition("How the network read it")[0]
    assert first.count("<article>") == 1  # the worst comes first, open


def test_score_plays_what_the_reference_names(tmp_path, tone):
    soundfile.write(tmp_path / "long.wav", np.concatenate([tone(1.0, 300.0), tone(1.0, 600.0)]), 16000)
    rows = [
        {"id": "0", "text": "one", "audio_filepath": "long.wav", "offset": 1.0, "duration": 0.5},
        {"id": "1", "text": "two", "audio_filepath": "gone.wav", "duration": 1.0},
        {"id": "2", "text": "three", "duration": 1.0},
    ]
    (tmp_path / "ref.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "hyp.csv").write_text("id,text\n0,one\n1,too\n2,three\n")
    done = CliRunner().invoke(
        main, ["score", *(str(tmp_path / name) for name in ("ref.jsonl", "hyp.csv")), "--report", f"{tmp_path}/o.html"]
    )
    assert done.exit_code == 0, done.output
    assert "1 utterances cannot be played, the first: " in done.stderr
    assert "gone.wav" in done.stderr
    [player] = Page((tmp_path / "o.html").read_text()).tags("audio")
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(player["src"].partition(",")[2])))
    assert len(heard) / rate == pytest.approx(0.5, abs=0.1)
    assert np.abs(np.fft.rfft(heard)).argmax() * rate / len(heard) == pytest.approx(600, abs=5)
