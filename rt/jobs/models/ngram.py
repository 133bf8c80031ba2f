"""The embedded language model: 4-grams over the prose of the standard library's docstrings.

It needs no network and no file of weights, and everything it writes follows from the corpus, the prompt and the seed:
another process, on another machine with the same Python, writes the same text. It is a real language model, and a
very small one: it knows how the documentation of Python sounds, and nothing else.
"""

import ast
import hashlib
import random
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

MAX_TOKENS = 4096

#: Part of a run's identity: it changes whenever the same corpus, prompt and seed would give another text.
NAME = "rt-4gram-1"

#: Modules whose docstrings hold much prose for little source: about 0.3 s to read all of them.
_MODULES = (
    "asyncio.locks",
    "asyncio.tasks",
    "bdb",
    "bz2",
    "cmd",
    "code",
    "codecs",
    "configparser",
    "email.message",
    "email.policy",
    "fileinput",
    "gzip",
    "logging",
    "logging.handlers",
    "lzma",
    "os",
    "pathlib",
    "platform",
    "queue",
    "sched",
    "smtplib",
    "statistics",
    "tempfile",
    "threading",
    "timeit",
    "traceback",
    "turtle",
    "unittest.case",
    "urllib.parse",
)

#: Always part of the corpus, so that a Python that came without its sources has a model as well, if a poor one.
_OWN = (
    "A stream is a log of events, and every event has a number. A client that comes back says the last number that it saw, "
    "and the server sends what followed. A job that is interrupted goes on from what it streamed before.",
)

#: Words of context. With a corpus this small a longer one only quotes.
_ORDER = 3

#: How readily a shorter context is asked although a longer one is known: n matches are trusted with n / (n + this).
_BACKOFF = 0.3

#: The part of a prompt that may hold its last `_ORDER` words; more is not looked at for context.
_TAIL_CHARACTERS = 512

#: A token keeps the space before it, so that joined tokens are the text again: words with what is inside them, then marks.
_TOKEN = re.compile(r"\n\n| ?\w+(?:['’./-]\w+)*| ?[^\w\s]")
_BREAK = "\n\n"

#: Words that a paragraph has at least: one-line summaries of functions would make the text a list of them.
_SHORTEST = 10

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

#: Code, tables, markup, and brackets and quotes that the model would open and never close.
_NOT_PROSE = re.compile(r"""[<>=(){}\[\]|\\*_#`"@$%^~/]|--|::|(?<!\w)'|\.\.""")


def read_corpus() -> str:
    """The paragraphs of prose in the docstrings of `_MODULES`, parted by blank lines; about 0.3 s of CPU.

    The modules' sources are parsed, never imported: an import could do anything. One that is missing is left out.
    """
    paragraphs = list(_OWN)
    for name in _MODULES:
        source = _source(name)
        if source is not None:
            paragraphs.extend(_prose(source))
    # Docstrings repeat one another (`dict.fromkeys` keeps the order); a repeat would make the model quote it.
    return _BREAK.join(dict.fromkeys(paragraphs))


def _source(name: str) -> str | None:
    home = Path(sysconfig.get_path("stdlib"), *name.split("."))
    for path in (home.with_suffix(".py"), home / "__init__.py"):
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
    return None


def _prose(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    # Only definitions are visited: walking every expression takes longer than parsing.
    nodes: list[_Documented] = [tree]
    while nodes:
        node = nodes.pop()
        nodes.extend(one for one in node.body if isinstance(one, _Documented))
        for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
            words = paragraph.split()
            indented = "\n " in paragraph
            if (
                len(words) >= _SHORTEST
                and not indented
                and paragraph[0].isupper()
                and words[-1][-1] in ".!?"
                and not _NOT_PROSE.search(paragraph)
            ):
                yield " ".join(words)


def tokens_of(text: str) -> list[str]:
    """The tokens of any text; spaces and single line breaks count as one space, blank lines as a paragraph's end."""
    paragraphs = (" ".join(one.split()) for one in re.split(r"\n\s*\n", text))
    return _TOKEN.findall(_BREAK.join(paragraphs))


class NGramModel:
    """Trained when it is made (some 20 ms for `read_corpus()`); afterwards it never changes, so threads may share it.

    The next token is drawn from the tokens that followed the same last three words in the corpus; where those are few,
    chance decides between them and what followed the last two, or the last one. Words of the context are compared
    without their case. Only where each word stands is stored: the followers are looked up when they are needed.
    """

    def __init__(self, corpus: str) -> None:
        """Raises ValueError for a corpus without a word."""
        self.corpus_hash = hashlib.sha256(corpus.encode()).hexdigest()
        """SHA-256 of the corpus, hexadecimal."""
        # The corpus begins where a paragraph has ended, and ends where one begins: every position has a follower.
        self._tokens = [_BREAK, *tokens_of(corpus.strip()), _BREAK]
        if len(self._tokens) == 2:
            raise ValueError("the corpus holds no word")
        self._words = [_word(one) for one in self._tokens]
        self._places: dict[str, list[int]] = defaultdict(list)
        for place, word in enumerate(self._words[:-1]):
            self._places[word].append(place)

    def generate(self, prompt: str, max_tokens: int, seed: int) -> Iterator[str]:
        """Yields `max_tokens` pieces of text (1..4096), which, joined to the prompt, go on from it.

        The pieces hold their own spaces and line breaks. A prompt whose last word is unknown is followed by the
        beginning of a paragraph. The same prompt and seed give the same pieces, and a larger `max_tokens` only more.
        Raises ValueError for `max_tokens` out of bounds, before the first piece.
        """
        if not 1 <= max_tokens <= MAX_TOKENS:
            raise ValueError(f"max_tokens must be 1 to {MAX_TOKENS}")
        return self._generate(prompt, max_tokens, random.Random(seed))

    def _generate(self, prompt: str, max_tokens: int, chance: random.Random) -> Iterator[str]:
        context = [_word(one) for one in tokens_of(prompt[-_TAIL_CHARACTERS:])[-_ORDER:]]
        ended = not prompt or prompt[-1].isspace()
        for number in range(max_tokens):
            # What stood before a paragraph says nothing of it: otherwise the model goes through the corpus in its order.
            if not context or context[-1] == _BREAK or context[-1] not in self._places:
                context = [_BREAK]
            token = self._next(context, chance)
            context = [*context[1 - _ORDER :], _word(token)]
            if number:
                yield token
            elif ended:
                # No space after a space; and a paragraph that has not begun cannot end.
                yield token.lstrip()
            else:
                yield token if token[0].isspace() or not token[0].isalnum() else f" {token}"

    def _next(self, context: Sequence[str], chance: random.Random) -> str:
        # The places of longer contexts are found among those of shorter ones; the longest is asked first.
        levels = [self._places[context[-1]]]
        for back in range(1, len(context)):
            words, wanted = self._words, context[-1 - back]
            narrower = [place for place in levels[-1] if place >= back and words[place - back] == wanted]
            if not narrower:
                break
            levels.append(narrower)
        while len(levels) > 1 and chance.random() * (len(levels[-1]) + _BACKOFF) >= len(levels[-1]):
            levels.pop()
        # random() is the one method whose sequence for a seed every version of Python promises.
        place = levels[-1][int(chance.random() * len(levels[-1]))]
        return self._tokens[place + 1]


def _word(token: str) -> str:
    return token if token == _BREAK else token.strip().lower()
