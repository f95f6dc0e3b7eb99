"""Read UMT5's tokenizer from a tokenizer.json, a spiece.model, or a model file that contains it.

A tokenizer cuts a prompt into numbered pieces of words. UMT5's is a SentencePiece model of 256,000 pieces
(https://github.com/google/sentencepiece). The published folder has it as tokenizer.json. ComfyUI's safetensors files
contain the SentencePiece model as the tensor `spiece_model`. GGUF files contain the list of pieces, from which this
module builds the model. Knows no weights.
"""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.headers import is_gguf, read_gguf, read_header

Encode = Callable[[str], list[int]]
"""A cleaned prompt -> its tokens, ended by </s>."""
SPIECE_KEY = "spiece_model"
END = 1
"""The number of </s>, which ends every prompt."""
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Types of pieces: BYTE stands for one byte of a character that has no piece."""
_GGUF = "tokenizer.ggml."
_PIECES, _SCORES, _TYPES = f"{_GGUF}tokens", f"{_GGUF}scores", f"{_GGUF}token_type"
_CHARACTERS = f"{_GGUF}precompiled_charsmap"
_MAX_PIECES = 1_000_000


class Piece(NamedTuple):
    """A piece of words. score: the logarithm of its probability."""

    text: str
    score: float
    type: int


def read_tokenizer(path: Path, max_tokens: int) -> Encode:
    """The tokenizer in a folder, a tokenizer.json, a spiece.model or a file of weights. Raises WeightsError."""
    file = path / "tokenizer.json" if path.is_dir() or not path.suffix else path
    if not file.is_file() and (file.parent / "spiece.model").is_file():
        file = file.parent / "spiece.model"
    if not file.is_file():
        raise WeightsError(
            f"The tokenizer is missing: expected it at {file}. Download it with `lipsync weights pull umt5-tokenizer`."
        )
    if file.suffix == ".json":
        return _of_json(file, max_tokens)
    return _of_sentencepiece(file, _model_in(file), max_tokens)


def has_tokenizer(path: Path) -> bool:
    """Whether a file of weights carries its tokenizer. Raises WeightsError for a damaged file."""
    if is_gguf(path):
        return _PIECES in read_gguf(path, lambda key: key == _PIECES)[1]
    return any(entry.key.endswith(SPIECE_KEY) for entry in read_header(path))


def _of_json(file: Path, max_tokens: int) -> Encode:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower
        raise WeightsError(f"The tokenizer {file} cannot be read ({error}). Download it again.") from error
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return lambda prompt: list(tokenizer.encode(prompt).ids)


def _of_sentencepiece(file: Path, model: bytes, max_tokens: int) -> Encode:
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_proto=model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(f"The tokenizer in {file} cannot be read ({error}). Download the file again.") from error
    return lambda prompt: [*processor.encode(prompt, out_type=int)[: max_tokens - 1], END]


def _model_in(file: Path) -> bytes:
    """The serialised SentencePiece model in a file of any kind."""
    if is_gguf(file):
        return _written_anew(file)
    if file.suffix != ".safetensors":
        return file.read_bytes()
    for entry in read_header(file):
        if entry.key.endswith(SPIECE_KEY):
            with file.open("rb") as opened:
                (length,) = struct.unpack("<Q", opened.read(8))
                opened.seek(8 + length + entry.begin)
                return opened.read(entry.n_bytes)
    raise WeightsError(f"{file} carries no tokenizer. Download one with `lipsync weights pull umt5-tokenizer`.")


def _written_anew(file: Path) -> bytes:
    """The serialised SentencePiece model of the pieces that a GGUF file lists. Raises WeightsError if it lists none."""
    _, values = read_gguf(file, lambda key: key.startswith(_GGUF))
    pieces, scores, kinds = values.get(_PIECES), values.get(_SCORES), values.get(_TYPES)
    if not isinstance(pieces, list) or not isinstance(scores, list) or not isinstance(kinds, list):
        raise WeightsError(f"{file} carries no tokenizer. Download one with `lipsync weights pull umt5-tokenizer`.")
    if not len(pieces) == len(scores) == len(kinds) <= _MAX_PIECES:
        raise WeightsError(f"{file}: the tokenizer's pieces, scores and types do not belong together.")
    listed = [
        Piece(str(piece), float(score) if isinstance(score, int | float) else 0.0, _int(kind, NORMAL))
        for piece, score, kind in zip(pieces, scores, kinds, strict=True)
    ]
    characters = values.get(_CHARACTERS)
    return sentencepiece_model(
        listed,
        rules=bytes(_int(one, 0) % 256 for one in characters) if isinstance(characters, list) else b"",
        space_first=bool(_int(values.get(f"{_GGUF}add_space_prefix"), 1)),
        joins_spaces=bool(_int(values.get(f"{_GGUF}remove_extra_whitespaces"), 1)),
    )


def sentencepiece_model(
    pieces: Sequence[Piece], *, rules: bytes = b"", space_first: bool = True, joins_spaces: bool = True
) -> bytes:
    """A serialised SentencePiece model with T5's numbers of the special pieces.

    In the protocol buffers of sentencepiece_model.proto: pieces (1) of text (1), score (2) and type (3); the trainer's
    (2) kind (3), size (4), byte fallback (35) and special numbers (40 to 43); the normaliser's (3) rules (2) and
    switches (3 to 5).
    """
    out = bytearray()
    for piece in pieces:
        score = b"\x15" + struct.pack("<f", piece.score)
        out += _field(1, _field(1, piece.text.encode()) + score + _number(3, piece.type))
    unknown = next((index for index, piece in enumerate(pieces) if piece.type == UNKNOWN), 2)
    trainer = _number(3, 1) + _number(4, len(pieces)) + _number(35, int(any(one.type == BYTE for one in pieces)))
    for field, number in ((40, unknown), (41, -1), (42, END), (43, 0)):
        trainer += _number(field, number)
    normaliser = (_field(2, rules) if rules else b"") + _number(3, int(space_first)) + _number(4, int(joins_spaces))
    return bytes(out + _field(2, trainer) + _field(3, normaliser + _number(5, 1)))


def _int(value: object, default: int) -> int:
    return int(value) if isinstance(value, int | bool) else default


def _varint(value: int) -> bytes:
    """A whole number in protocol buffers' form: seven bits a byte, lowest first; bit 7 marks that a byte follows."""
    value %= 1 << 64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    """A field that holds an integer (wire type 0)."""
    return _varint(field << 3) + _varint(value)


def _field(field: int, value: bytes) -> bytes:
    """A field that holds bytes with their length (wire type 2): a string or a message."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value
