"""Small tokenizers built from captions, in the classes and file formats of the large ones.

CLIP's: lower-cased, byte-level, so any text is some sequence of its tokens. T5's: SentencePiece
unigram, case kept. In both, every word of the captions is one token and any other word is spelled
letter by letter: what a picture shall spell is spelled to the encoders too.

Built from counts that are sorted, so the same captions in any order give the same files.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken
from transformers import CLIPTokenizer, T5Tokenizer

from rectiflow.encoders.charsmap import byte_letters, byte_level_charsmap

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
SENTINEL = "<extra_id_0>"
"""T5's token in place of one that is hidden."""

_WORD = re.compile(r"(?<![\w\"])[a-z]{2,}(?![\w\"])")
_SPACE = "\u2581"  # SentencePiece's mark of a word's beginning


def caption_words(captions: Iterable[str]) -> list[str]:
    """All lower-case words of two letters or more outside quotation marks, sorted."""
    return sorted({word for caption in captions for word in _WORD.findall(caption)})


def lengths(tokenizer: CLIPTokenizer | T5Tokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, the marks of begin and end included, nothing cut."""
    return [len(ids) for ids in tokenizer(list(texts), verbose=False).input_ids]


def clip_tokenizer(words: Iterable[str], pad_token: str = EOS) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer in which `words` are single tokens.

    There are no merges: a word is found as a whole, before the byte level, and anything else falls
    apart into bytes. Ids 0-255 are the bytes, the next 256 those that end a word, as in CLIP's own
    vocabulary; then the words; start and end of text come last.

    Args:
        words: Lower-case words.
        pad_token: As in SD3, the end of text for the first encoder and "!" (id 0) for the second.
    """
    letters = sorted(byte_letters())  # "!" has id 0
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *words, BOS, EOS]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        pad_token=pad_token,
    )
    # Matched after lower-casing and between word boundaries only.
    wholes: Any = [AddedToken(word, single_word=True, normalized=True) for word in words]
    tokenizer.add_tokens(wholes)
    return tokenizer


def t5_tokenizer(words: Iterable[str]) -> T5Tokenizer:
    """A T5 tokenizer in which lower-case `words` are single tokens and all else is spelled.

    A unigram model takes the cut of highest total score, so one word beats its letters and there is
    no piece of several letters to take instead. Beyond ASCII, characters become bytes (see
    `charsmap`), each a piece.
    """
    pieces = ["<pad>", "</s>", "<unk>", _SPACE]
    pieces += sorted(byte_letters())
    pieces += [_SPACE + mark for mark in "\"'("]  # saves the token that marks the space
    pieces += [_SPACE + letter for letter in "abcdefghijklmnopqrstuvwxyz"]
    pieces += [_SPACE + word for word in words] + [SENTINEL]
    scores = [0.0, 0.0, 0.0] + [-1.0 if len(piece) > 1 else -10.0 for piece in pieces[3:]]
    return T5Tokenizer(
        vocab=list(zip(pieces, scores, strict=True)),
        _spm_precompiled_charsmap=byte_level_charsmap(),
        extra_ids=1,
        additional_special_tokens=[SENTINEL],
    )
