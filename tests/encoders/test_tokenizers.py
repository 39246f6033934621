import pytest
from transformers import CLIPTokenizer, T5Tokenizer

from rectiflow.encoders.tokenizers import (
    SENTINEL,
    caption_words,
    clip_tokenizer,
    lengths,
    t5_tokenizer,
)

CAPTIONS = ["two red circles", "a red star left of a ring", 'the word "CAT" in "rare" black']
WORDS = ["black", "circles", "in", "left", "of", "red", "ring", "star", "the", "two", "word"]
STRANGE = ["naïve", "日本語", "Привет", "🙂🙃", "e\u0301", "\x07", "tab\tand\nline", "▁", "ﬁ"]


@pytest.fixture(scope="module", params=["clip_l", "clip_g", "t5"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "t5":
        t5_tokenizer(WORDS).save_pretrained(folder)
        return T5Tokenizer.from_pretrained(folder, local_files_only=True)
    pad = "!" if request.param == "clip_g" else "<|endoftext|>"
    clip_tokenizer(WORDS, pad).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def tokens(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [
        token.strip("\u2581").removesuffix("</w>") for token in tokenizer.convert_ids_to_tokens(ids)
    ]


def test_words_of_captions_are_the_lower_case_ones_outside_quotes():
    assert caption_words(CAPTIONS) == WORDS
    assert caption_words(reversed(CAPTIONS)) == WORDS


def test_a_caption_word_is_one_token(tokenizer):
    assert tokens(tokenizer, "two red circles left of a ring") == [
        *("two", "red", "circles", "left", "of", "a", "ring")
    ]


def test_other_words_are_spelled_letter_by_letter(tokenizer):
    spelled = [letter for letter in "redstarry" if letter]
    got = tokens(tokenizer, "the redstarry")
    if isinstance(tokenizer, T5Tokenizer):
        assert got == ["the", "red", *"starry"]  # a word's beginning may be a known word
    else:
        assert got == ["the", *spelled]


def test_a_quoted_word_is_spelled_and_only_clip_lowers_its_case(tokenizer):
    got = tokens(tokenizer, 'the word "CARS" in black')
    letters = "CARS" if isinstance(tokenizer, T5Tokenizer) else "cars"
    assert got == ["the", "word", '"', *letters, '"', "in", "black"]


def test_case_matters_to_t5_only(tokenizer):
    same = tokenizer("RED ring").input_ids == tokenizer("red ring").input_ids
    assert same == isinstance(tokenizer, CLIPTokenizer)


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_tokenises_without_the_unknown_token(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids
    assert tokenizer.unk_token_id not in ids
    assert max(ids) < len(tokenizer)


def test_characters_of_two_bytes_become_their_bytes_in_t5():
    t5 = t5_tokenizer(WORDS)
    assert t5.tokenize("né")[-3:] == [
        "\u2581n",
        *"Ã©",
    ]  # é is C3 A9, and these stand for themselves
    assert t5.tokenize("a\u00a0red") == t5.tokenize("a red")
    codes = range(0x80, 0x800)
    spelled = {tuple(t5.tokenize(f"n{chr(code)}")) for code in codes if code != 0xA0}
    assert len(spelled) == len(codes) - 1  # no two characters are the same to it


def test_longer_characters_become_their_first_two_bytes_in_t5():
    t5 = t5_tokenizer(WORDS)
    assert t5.tokenize("日") != t5.tokenize("語")
    assert len(t5.tokenize("x日")) == 3
    assert t5.tokenize("x" + chr(0x4E00)) == t5.tokenize("x" + chr(0x4E3F))  # one block of 64


def test_ends_and_padding_are_those_of_sd3(tokenizer):
    ids = tokenizer("red ring", padding="max_length", max_length=6).input_ids
    end = tokenizer.eos_token_id
    body = [tokenizer.convert_tokens_to_ids(name) for name in ("red", "ring")]
    if isinstance(tokenizer, T5Tokenizer):
        body = [tokenizer.convert_tokens_to_ids("\u2581" + name) for name in ("red", "ring")]
        assert ids == [*body, end, 0, 0, 0]
        assert (end, tokenizer.unk_token_id) == (1, 2)
    elif tokenizer.pad_token == "!":
        assert ids == [tokenizer.bos_token_id, *body, end, 0, 0]
    else:
        assert ids == [tokenizer.bos_token_id, *body, end, end, end]
        assert end == len(tokenizer) - 1  # highest of all, as in CLIP


def test_the_sentinel_is_one_id_of_its_own():
    t5 = t5_tokenizer(WORDS)
    sentinel = t5.convert_tokens_to_ids(SENTINEL)
    assert t5(f"two {SENTINEL} circles", add_special_tokens=False).input_ids[1] == sentinel
    assert sentinel == len(t5) - 1


def test_lengths_count_what_marks_the_ends_and_cut_nothing():
    assert lengths(clip_tokenizer(WORDS), ["", "red ring", "x" * 200]) == [2, 4, 202]
    assert lengths(t5_tokenizer(WORDS), ["", "red ring"]) == [1, 3]


def test_the_same_captions_give_the_same_files(tmp_path):
    for name in ("a", "b"):
        t5_tokenizer(caption_words(CAPTIONS)).save_pretrained(tmp_path / name / "t5")
        clip_tokenizer(caption_words(CAPTIONS)).save_pretrained(tmp_path / name / "clip")
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.json")}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    assert first == second
    assert len(first) == 4
