"""Sentiment by VADER, sentence by sentence. A rule-based model of English that reads emphasis, negation and emoji.

Hutto, C.J. & Gilbert, E.E. (2014), "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text".
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict

from vaderSentiment import vaderSentiment

#: VADER's time grows with the square of a sentence's words: uncut, one text of 200,000 characters could take minutes.
MAX_SENTENCE_CHARACTERS = 500

Label = Literal["positive", "negative", "neutral"]


class Score(TypedDict):
    """`compound` is -1..1; `pos`, `neu` and `neg` are the shares of the words, 0..1, and add up to about 1."""

    label: Label
    compound: float
    pos: float
    neu: float
    neg: float


class _Analyzer(vaderSentiment.SentimentIntensityAnalyzer):  # type: ignore[misc]
    """VADER with its own two files, which it would open with a function that Python 3.14 deprecates."""

    def __init__(self) -> None:
        home = Path(vaderSentiment.__file__).parent
        # These attributes are what VADER's own methods parse, names and all.
        self.lexicon_full_filepath = (home / "vader_lexicon.txt").read_text(encoding="utf-8")
        self.lexicon = self.make_lex_dict()
        self.emoji_full_filepath = (home / "emoji_utf8_lexicon.txt").read_text(encoding="utf-8")
        self.emojis = self.make_emoji_dict()


@cache
def load() -> _Analyzer:
    """Reads the lexicon, once: some 20 ms, blocking. `score` does it where nobody has."""
    return _Analyzer()


def score(text: str) -> Score:
    """The score of one sentence; a longer text is `mean` of its `sentences`. CPU-bound: some 0.1 ms for a sentence."""
    told = load().polarity_scores(text)
    return Score(label=label(told["compound"]), compound=told["compound"], pos=told["pos"], neu=told["neu"], neg=told["neg"])


def label(compound: float) -> Label:
    """The thresholds are those of VADER's authors."""
    return "positive" if compound >= 0.05 else "negative" if compound <= -0.05 else "neutral"


def mean(scores: Sequence[Score]) -> Score:
    """A text's score: the mean over its sentences, as VADER's authors advise. Neutral, with all shares 0, for none."""
    compound = _mean([one["compound"] for one in scores], 4)
    return Score(
        label=label(compound),
        compound=compound,
        pos=_mean([one["pos"] for one in scores], 3),
        neu=_mean([one["neu"] for one in scores], 3),
        neg=_mean([one["neg"] for one in scores], 3),
    )


def _mean(values: Sequence[float], digits: int) -> float:
    return round(sum(values) / len(values), digits) if values else 0.0


#: A full stop after one of these ends no sentence.
_TITLE = re.compile(r"mrs?|ms|mx|dr|prof|rev|hon|gen|col|capt|lt|sgt|gov|sen|rep|st|mt|messrs|vs|cf|viz|e\.g|i\.e|approx", re.IGNORECASE)
#: Nor after one of these, where a lower-case word or a number follows.
_ABBREVIATION = re.compile(
    r"etc|inc|ltd|co|corp|dept|est|al|jr|sr|[ap]\.m|u\.[skn]|e\.u|ph\.d|nos?|vol|figs?|eq|ch|sec|pp?|eds?", re.IGNORECASE
)
_CLOSERS = "\"'”’»)]"
_OPENERS = "\"'“‘«(["
_WORD = re.compile(r"\S+")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


def sentences(text: str) -> list[str]:
    """Cuts English text after `.`, `!`, `?` and `…` before a space, and at blank lines; no white space around, none empty.

    Common abbreviations, initials and numbers end no sentence. What is longer than `MAX_SENTENCE_CHARACTERS` is cut
    between words. Takes time in proportion to the text, whatever is in it.
    """
    found: list[str] = []
    begin = end = 0
    last = ""
    for match in _WORD.finditer(text):
        word = match[0]
        if last and (_ends(last, word) or match.end() - begin > MAX_SENTENCE_CHARACTERS or _BLANK_LINE.search(text, end, match.start())):
            found.append(text[begin:end])
            begin = match.start()
        end, last = match.end(), word
    if last:
        found.append(text[begin:end])
    return found


def _ends(word: str, following: str) -> bool:
    bare = word.rstrip(_CLOSERS)
    if not bare.endswith((".", "!", "?", "…")):
        return False
    begins_small = following.lstrip(_OPENERS)[:1].islower()
    if bare.endswith(("...", "…")) or bare != word:
        # A pause, or what somebody said: "Why?" he asked.
        return not begins_small
    if not bare.endswith("."):
        return True
    stem = bare[:-1].lstrip(_OPENERS)
    if _TITLE.fullmatch(stem) or (len(stem) == 1 and stem.isupper() and stem != "I"):
        return False
    return not (_ABBREVIATION.fullmatch(stem) and (begins_small or following[0].isdigit()))
