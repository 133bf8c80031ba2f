import os
import subprocess
import sys
from itertools import islice

import pytest

from rt.jobs.models.ngram import MAX_TOKENS, NGramModel, read_corpus, tokens_of


@pytest.fixture(scope="module")
def model() -> NGramModel:
    return NGramModel(read_corpus())


def test_the_same_seed_writes_the_same_text_and_another_seed_another(model: NGramModel) -> None:
    first, again, other = ("".join(model.generate("The", 200, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_another_process_with_another_hash_seed_writes_the_same_text(model: NGramModel) -> None:
    code = (
        "from rt.jobs.models.ngram import NGramModel, read_corpus\n"
        "model = NGramModel(read_corpus())\n"
        "print(model.corpus_hash, ascii(''.join(model.generate('Return the', 300, 42))))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "4711"}, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == f"{model.corpus_hash} {''.join(model.generate('Return the', 300, 42))!a}"


def test_fewer_tokens_are_a_prefix_of_more(model: NGramModel) -> None:
    more = list(model.generate("The", 300, 5))
    assert list(model.generate("The", 20, 5)) == more[:20]
    assert len(more) == 300


def test_the_corpus_decides_the_hash() -> None:
    assert NGramModel("One two three.").corpus_hash != NGramModel("One two four.").corpus_hash
    assert len(NGramModel("One two three.").corpus_hash) == 64


def test_reading_the_corpus_imports_nothing() -> None:
    code = (
        "import sys; from rt.jobs.models.ngram import read_corpus; read_corpus(); print({'turtle', 'smtplib', 'timeit'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


def test_a_python_without_sources_has_a_model_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rt.jobs.models.ngram._source", lambda name: None)
    assert "".join(NGramModel(read_corpus()).generate("", 20, 1)).split()


def test_known_last_words_are_continued_as_the_corpus_does() -> None:
    model = NGramModel("The cat sat on the mat and slept. A dog ran over the hill and barked.")
    assert "".join(model.generate("I saw that a DOG ran", 4, 1)) == " over the hill and"


def test_an_unknown_last_word_is_followed_by_the_beginning_of_a_paragraph() -> None:
    model = NGramModel("The cat sat.")
    assert "".join(model.generate("xyzzy", 3, 1)) == " The cat sat"


def test_no_space_is_doubled_after_a_prompt_that_ends_with_one() -> None:
    model = NGramModel("The cat sat.")
    assert "".join(model.generate("The ", 2, 1)) == "cat sat"
    assert "".join(model.generate("xyzzy\n", 2, 1)) == "The cat"
    assert "".join(model.generate("", 2, 1)) == "The cat"


@pytest.mark.parametrize("seed", range(5))
def test_the_pieces_joined_read_like_prose(model: NGramModel, seed: int) -> None:
    text = "".join(model.generate("", 500, seed))
    assert "  " not in text
    assert " ." not in text
    assert " ," not in text
    assert "\n\n\n" not in text
    assert text[0].isupper()
    assert len(text) > 1500


def test_tokens_joined_are_the_text_again() -> None:
    text = "It's a half-open range, isn't it? Yes: 3.14 of them!\n\nA new paragraph."
    assert "".join(tokens_of(text)) == text


@pytest.mark.parametrize("max_tokens", [0, -1, MAX_TOKENS + 1])
def test_max_tokens_out_of_bounds_is_refused_at_once(model: NGramModel, max_tokens: int) -> None:
    with pytest.raises(ValueError, match="1 to 4096"):
        model.generate("The", max_tokens, 1)


def test_a_corpus_without_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="no word"):
        NGramModel(" \n\n ")


def test_a_prompt_of_any_characters_is_continued(model: NGramModel) -> None:
    for prompt in ("\x00", "日本語", "🙂" * 1000, "'" * 1000, "a" * 100_000, "\n\n\n"):
        assert len(list(islice(model.generate(prompt, 5, 1), 5))) == 5
