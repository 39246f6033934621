"""A byte level for T5's tokenizer, as the character map that SentencePiece models carry.

SentencePiece's own byte fallback is lost when transformers rebuilds a `T5Tokenizer`, but the
normalisation map survives. It is a prefix tree over UTF-8 bytes; the shortest key that begins a
character replaces the whole character. So with a key per character of two bytes (Latin, Greek,
Cyrillic, Hebrew, Arabic) each of these becomes its two bytes. For longer ones a key per pair of
leading bytes keeps the map at a few kilobytes: such a character becomes its first two bytes, which
tell its block of 64, not itself.

Format (SentencePiece, `normalizer.cc`): length of the tree in bytes, the tree, then the
replacements, each ended by a zero byte. The tree is a double array as in darts-clone.
"""

import struct
from collections.abc import Mapping

_HAS_LEAF = 1 << 8
_IS_LEAF = 1 << 31
_BLOCK = 256


def byte_letters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies, by byte.

    As in GPT-2 and CLIP: printable Latin-1 stands for itself, other bytes for the characters from
    code 256 on.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def byte_level_charsmap() -> bytes:
    """The map that turns every character beyond printable ASCII into letters for bytes.

    White space of ASCII is kept, and the no-break space becomes a space.
    """
    letters = byte_letters()
    kept = {*b"\t\n\v\f\r ", *range(33, 127)}
    keys = [bytes([code]) for code in range(1, 128) if code not in kept]
    keys += [bytes([first, second]) for first in range(0xC2, 0xF5) for second in range(0x80, 0xC0)]
    replacements = {key: "".join(letters[byte] for byte in key) for key in keys}
    replacements["\u00a0".encode()] = " "
    return charsmap(replacements)


def charsmap(replacements: Mapping[bytes, str]) -> bytes:
    """Pack UTF-8 prefixes and their replacements in SentencePiece's format."""
    blob, places = bytearray(), {}
    for key, text in sorted(replacements.items()):
        places[key] = len(blob)
        blob += text.encode() + b"\0"
    units = _double_array(places)
    tree = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(tree)) + tree + bytes(blob)


def _double_array(values: Mapping[bytes, int]) -> list[int]:
    """A prefix tree in one array: the child of a node by byte c lies at the node's base XOR c.

    A node holds its byte, whether a key ends there, and its own position XOR its base; the value of
    a key lies at the base itself.
    """
    children: dict[bytes, set[int]] = {}
    for key in values:
        for i, byte in enumerate(key):
            children.setdefault(key[:i], set()).add(byte)
    units: dict[int, int] = {0: 0}
    bases = iter(range(_BLOCK, 1 << 21))  # the root's own block stays free for the root
    nodes = [(b"", 0)]
    while nodes:
        prefix, place = nodes.pop()
        labels = sorted(children.get(prefix, ()))
        is_key = prefix in values
        base = next(
            base
            for base in bases
            if (not is_key or base not in units) and all(base ^ c not in units for c in labels)
        )
        units[place] |= (base ^ place) << 10 | (_HAS_LEAF if is_key else 0)
        if is_key:
            units[base] = _IS_LEAF | values[prefix]
        for label in labels:
            units[base ^ label] = label
            nodes.append((prefix + bytes([label]), base ^ label))
    size = -(-(max(units) + 1) // _BLOCK) * _BLOCK
    return [units.get(i, 0) for i in range(size)]
