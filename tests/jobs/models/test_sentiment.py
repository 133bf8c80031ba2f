import subprocess
import sys
import time

import pytest

from rt.jobs.models.sentiment import MAX_SENTENCE_CHARACTERS, label, mean, score, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I love this, it is wonderful!", "positive"),
        ("This is a horrible, useless thing.", "negative"),
        ("It is not good.", "negative"),
        ("The table has four legs.", "neutral"),
        ("Well done 😁", "positive"),
        ("", "neutral"),
    ],
)
def test_a_sentence_gets_its_label(text: str, expected: str) -> None:
    told = score(text)
    assert told["label"] == expected
    assert -1 <= told["compound"] <= 1
    assert set(told) == {"label", "compound", "pos", "neu", "neg"}


def test_the_scores_are_those_of_vader() -> None:
    # From the examples of VADER's README.
    assert score("VADER is smart, handsome, and funny.") == {
        "label": "positive",
        "compound": 0.8316,
        "pos": 0.746,
        "neu": 0.254,
        "neg": 0.0,
    }


@pytest.mark.parametrize(("compound", "expected"), [(0.05, "positive"), (0.0499, "neutral"), (-0.0499, "neutral"), (-0.05, "negative")])
def test_the_label_changes_at_a_twentieth(compound: float, expected: str) -> None:
    assert label(compound) == expected


def test_a_text_has_the_mean_of_its_sentences() -> None:
    good, bad = score("It is good."), score("It is terrible.")
    told = mean([good, bad])
    assert told["compound"] == pytest.approx((good["compound"] + bad["compound"]) / 2, abs=1e-4)
    assert mean([good]) == good


def test_nothing_is_neutral() -> None:
    assert mean([]) == {"label": "neutral", "compound": 0.0, "pos": 0.0, "neu": 0.0, "neg": 0.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
        ("i hate it. it sucks.", ["i hate it.", "it sucks."]),
        ("Dr. Smith met Mrs. J. R. Jones, e.g. today.", ["Dr. Smith met Mrs. J. R. Jones, e.g. today."]),
        ("We sell pens etc. and paper. We sell pens etc. Come in.", ["We sell pens etc. and paper.", "We sell pens etc.", "Come in."]),
        ("Did he? No. He left at 5 p.m. on foot.", ["Did he?", "No.", "He left at 5 p.m. on foot."]),
        ("Pi is 3.14 or so, see No. 5 and Fig. 3.", ["Pi is 3.14 or so, see No. 5 and Fig. 3."]),
        ('"Why?" he asked. "Go!" She went.', ['"Why?" he asked.', '"Go!"', "She went."]),
        ("I was... not happy. Really... Yes.", ["I was... not happy.", "Really...", "Yes."]),
        ("A title\n\nwrapped\nline \n \n end", ["A title", "wrapped\nline", "end"]),
        ("It was I. You knew.", ["It was I.", "You knew."]),
        (" \n ", []),
        ("", []),
    ],
)
def test_text_is_cut_where_its_sentences_end(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_no_word_is_lost() -> None:
    text = "Mr. X said: hello. Then... he left!  (Why?) Nobody knows.\n\nThe end " * 50
    assert " ".join(sentences(text)).split() == text.split()


def test_a_text_without_an_end_is_cut_between_words() -> None:
    cut = sentences("good bad " * 1000)
    assert all(len(one) <= MAX_SENTENCE_CHARACTERS for one in cut)
    assert " ".join(cut).split() == ("good bad " * 1000).split()


@pytest.mark.parametrize("text", ["." * 200_000, "\n " * 100_000, "a. " * 66_666, '."' * 100_000, "x" * 200_000, "Mr. " * 50_000])
def test_cutting_takes_time_in_proportion_to_the_text(text: str) -> None:
    begin = time.process_time()
    sentences(text)
    # A hundred times what it takes; anything quadratic takes minutes.
    assert time.process_time() - begin < 10


def test_loading_raises_no_warning() -> None:
    code = "from rt.jobs.models.sentiment import score; print(score('good')['label'])"
    told = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (told.stdout.strip(), told.stderr) == ("positive", "")
