"""The text encoder's tokenizer makes the same tokens from each of the files in which a user may have the tokenizer."""

import importlib
from io import BytesIO
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from lipsync_server.errors import WeightsError
from lipsync_server.models.encoders.tokenizer import has_tokenizer, read_tokenizer
from safetensors.torch import save_file

PROMPTS = (
    "A person is talking to the camera with natural expressions.",
    "Olá! Uma pessoa fala — 你好 😀",
    "two  spaces, a ﬁ ligature",
    "",
    "word " * 900,
)


@pytest.fixture(scope="module")
def spiece() -> bytes:
    """A small model with UMT5's special pieces and byte fallback."""
    words = ["a person is talking to the camera", "natural expressions of the head", "uma pessoa fala", "two spaces"]
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words * 20), model_writer=model, vocab_size=330, byte_fallback=True, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def _write_gguf(path: Path, spiece: bytes) -> None:
    """Write a GGUF file with the notes that llama.cpp's conversion makes of a tokenizer."""
    model = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    model.ParseFromString(spiece)
    writer = gguf.GGUFWriter(path, "t5encoder")
    writer.add_tokenizer_model("t5")
    writer.add_token_list([piece.piece for piece in model.pieces])
    writer.add_token_scores([piece.score for piece in model.pieces])
    writer.add_token_types([piece.type for piece in model.pieces])
    writer.add_add_space_prefix(model.normalizer_spec.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(model.normalizer_spec.remove_extra_whitespaces)
    writer.add_precompiled_charsmap(model.normalizer_spec.precompiled_charsmap)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_tokenizer_inside_weights_gives_the_tokens_of_the_file_beside_them(spiece: bytes, tmp_path: Path) -> None:
    beside, inside, packed = (tmp_path / name for name in ("spiece.model", "umt5.safetensors", "umt5.gguf"))
    beside.write_bytes(spiece)
    save_file({"spiece_model": torch.frombuffer(bytearray(spiece), dtype=torch.uint8)}, inside)
    _write_gguf(packed, spiece)
    wanted = read_tokenizer(beside, 512)
    assert has_tokenizer(inside)
    assert has_tokenizer(packed)
    for prompt in PROMPTS:
        tokens = wanted(prompt)
        assert tokens[-1] == 1
        assert len(tokens) <= 512
        for path in (inside, packed, tmp_path):
            assert read_tokenizer(path, 512)(prompt) == tokens, path


def test_the_tokens_are_those_of_the_published_tokenizer_json(spiece: bytes, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers.convert_slow_tokenizer")
    (tmp_path / "spiece.model").write_bytes(spiece)

    class Slow:
        vocab_file = str(tmp_path / "spiece.model")
        _extra_ids = 0

        def convert_tokens_to_ids(self, token: str) -> int:
            return {"</s>": 1}[token]

    transformers.T5Converter(Slow()).converted().save(str(tmp_path / "tokenizer.json"))
    published, ours = (read_tokenizer(tmp_path / name, 512) for name in ("tokenizer.json", "spiece.model"))
    # Characters without a piece become bytes in one and <unk> in the other: transformers' conversion has no bytes.
    for prompt in ("a person is  talking", " two spaces ", "word " * 900, "uma pessoa fala"):
        assert published(prompt) == ours(prompt)


def test_weights_without_a_tokenizer_say_which_download_brings_one(tmp_path: Path) -> None:
    save_file({"shared.weight": torch.zeros(2, 2)}, tmp_path / "umt5.safetensors")
    for path in (tmp_path / "umt5.safetensors", tmp_path / "nothing"):
        with pytest.raises(WeightsError, match="lipsync weights pull umt5-tokenizer"):
            read_tokenizer(path, 512)
