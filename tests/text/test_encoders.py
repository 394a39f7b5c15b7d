"""Encoders of sentences: the built-in one, pretrained ones, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldflow.errors import ConfigError, DataError, WorldFormatError
from worldflow.text.encoder import embed, encoder_of, load_encoder
from worldflow.text.pretrained import MINILM_PACKAGE, PretrainedEncoder, minilm_folder
from worldflow.text.spec import TextSpec
from worldflow.text.words import MAX_WORDS, WordEncoder


def test_words_are_unit_vectors_whose_cosine_grows_with_common_words() -> None:
    left, right, doom = WordEncoder().encode(["the ball left", "the ball right", "doom monsters"])
    torch.testing.assert_close(left.norm(), torch.tensor(1.0))
    assert 0.5 < left @ right < 0.95
    assert (left @ doom).abs() < 0.5


def test_words_ignore_case_order_and_punctuation() -> None:
    one, two = WordEncoder().encode(["The ball, left!", "left ball the the"])
    assert torch.equal(one, two)


def test_words_are_the_same_on_every_machine() -> None:
    """`echo -n ball | sha256sum` begins with e9de, in bits 11101001 11011110."""
    [vector] = WordEncoder().encode(["ball"])
    bits = [1, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0]
    assert (8 * vector[:16]).tolist() == [2.0 * bit - 1.0 for bit in bits]


@pytest.mark.parametrize("text", ["", "   ", "?!"])
def test_words_refuse_what_has_none(text: str) -> None:
    with pytest.raises(DataError, match="no words"):
        WordEncoder().encode([text])


def test_words_refuse_ten_thousand() -> None:
    with pytest.raises(DataError, match=f"10000 words, the encoder 'words' reads {MAX_WORDS}"):
        WordEncoder().encode(["word " * 10_000])


def test_other_alphabets_are_words_too() -> None:
    [russian] = WordEncoder().encode(["мяч падает влево"])
    assert russian.norm().item() == pytest.approx(1.0)


def test_embedding_encodes_equal_texts_alike_and_none_as_zeros() -> None:
    vectors = embed(WordEncoder(), ["a ball", None, "a ball", "doom"])
    assert torch.equal(vectors[0], vectors[2])
    assert not vectors[1].any()
    assert torch.equal(vectors[3], WordEncoder().encode(["doom"])[0])


def test_unknown_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="no text encoder 'bert-large'; use minilm, words"):
        load_encoder("bert-large")


def test_a_world_without_text_has_no_encoder() -> None:
    with pytest.raises(DataError, match="learned without captions"):
        encoder_of(None)


def test_another_encoder_than_the_worlds_is_refused() -> None:
    spec = TextSpec("words", "0123456789abcdef", 64)
    with pytest.raises(WorldFormatError, match=r"digest .* this world learned with words: 0123"):
        encoder_of(spec)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs transformers: pip install 'worldflow\[text\]'"):
        load_encoder(str(tmp_path))
    monkeypatch.setattr("worldflow.text.pretrained.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"minilm is not installed: pip install"):
        minilm_folder()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match="holds no transformers model with safetensors"):
        load_encoder(str(tmp_path))


def test_minilm() -> None:
    """The real encoder: paraphrases are near, other scenes are not, and the limit is refused."""
    pytest.importorskip("transformers")
    pytest.importorskip(MINILM_PACKAGE)
    encoder = load_encoder("minilm")
    texts = ["the ball falls to the left", "a ball drops on the left side", "doom corridor"]
    ball, paraphrase, doom = embed(encoder, texts)
    assert encoder.width == 384
    torch.testing.assert_close(ball.norm(), torch.tensor(1.0))
    assert ball @ paraphrase > 0.8 > 0.3 > ball @ doom
    # bits do not depend on what else is encoded
    assert torch.equal(embed(encoder, [texts[1]])[0], paraphrase)
    with pytest.raises(DataError, match="10002 tokens, the encoder minilm reads 512"):
        encoder.encode(["word " * 10_000])
    with pytest.raises(DataError, match="empty"):
        encoder.encode([" "])
    assert encoder_of(TextSpec("minilm", encoder.digest, 384)).digest == encoder.digest


def tiny_model(folder: Path, kind: str) -> None:
    """A transformers model of random weights with a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ball", "left", "right", "doom"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(0)
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=9,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=12,
        )
        transformers.BertModel(config).save_pretrained(folder)
    elif kind == "t5":
        config = transformers.T5Config(
            vocab_size=9,
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        )
        transformers.T5Model(config).save_pretrained(folder)
    else:
        text = {
            "vocab_size": 9,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 12,
            "eos_token_id": 3,
        }
        vision = {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 8,
            "image_size": 8,
            "patch_size": 8,
        }
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=4)
        transformers.CLIPModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["bert", "t5", "clip"])
def test_models_of_a_local_folder(tmp_path: Path, kind: str) -> None:
    tiny_model(tmp_path / "model", kind)
    encoder = load_encoder(str(tmp_path / "model"))
    one, two = encoder.encode(["ball left", "doom"])
    assert one.shape == (encoder.width,) == (16,)
    torch.testing.assert_close(one.norm(), torch.tensor(1.0))
    assert not torch.allclose(one, two)
    # padding beside a longer text changes nothing but rounding
    torch.testing.assert_close(encoder.encode(["doom"])[0], two, atol=1e-5, rtol=0)


def test_the_digest_is_of_the_files(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model", "bert")
    before = PretrainedEncoder(tmp_path / "model", "x").digest
    assert PretrainedEncoder(tmp_path / "model", "y").digest == before
    (tmp_path / "model" / "extra.json").write_text("{}")
    assert PretrainedEncoder(tmp_path / "model", "x").digest != before


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("bert", "encoder.layer.0.attention.self.query.weight"),
        ("t5", "encoder.block.0.layer.0.SelfAttention.q.weight"),
        ("clip", "text_model.encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_missing_weights_are_refused(tmp_path: Path, kind: str, lost: str) -> None:
    """transformers would draw them at random, and say so in a log."""
    tiny_model(tmp_path / "model", kind)
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    del weights[lost]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"lack 1 tensors of the model \(first: {lost}\)"):
        load_encoder(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("bert", "pooler.dense.weight"),
        ("t5", "decoder.block.0.layer.0.SelfAttention.q.weight"),
        ("clip", "visual_projection.weight"),
    ],
)
def test_weights_that_no_text_needs_may_be_missing(tmp_path: Path, kind: str, lost: str) -> None:
    tiny_model(tmp_path / "model", kind)
    before = load_encoder(str(tmp_path / "model")).encode(["ball left"])
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    del weights[lost]
    save_file(weights, path, {"format": "pt"})
    assert torch.equal(load_encoder(str(tmp_path / "model")).encode(["ball left"]), before)
