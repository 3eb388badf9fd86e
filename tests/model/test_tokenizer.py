"""The tokenizer gives ProtT5nv's published ids and exactly one token per character."""

from __future__ import annotations

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from prott5nv import ProteinTokenizer, ProtT5nvError
from prott5nv.assets import SENTENCEPIECE_MODEL, SENTENCEPIECE_VOCAB
from prott5nv.model.tokenizer import FIRST_SENTINEL, LAST_RESIDUE, RESIDUES, VOCABULARY

PROTEINS = st.text(alphabet=RESIDUES, min_size=1, max_size=200)


def test_vocabulary_has_the_published_ids():
    assert VOCABULARY[:5] == ("<unk>", "<s>", "</s>", "<pad>", "<mask>")
    assert "".join(VOCABULARY[5:30]) == "LASGVERTDIPKNFQYHMCWXBZUO"
    assert VOCABULARY[30:32] == ("<cls>", "<sep>")
    assert (VOCABULARY[32], VOCABULARY[127], len(VOCABULARY)) == ("<extra_id_0>", "<extra_id_95>", 128)
    assert (LAST_RESIDUE, FIRST_SENTINEL) == (29, 32)


def test_published_examples_are_reproduced():
    tokenizer = ProteinTokenizer()
    assert tokenizer.encode("MSLKR").tolist() == [22, 7, 5, 16, 11]
    assert tokenizer.encode("XBZUO").tolist() == [25, 26, 27, 28, 29]


@pytest.mark.parametrize("letters", ["J", "JJJ", "***", "-J*-"])
def test_each_unknown_letter_becomes_one_token(letters):
    assert ProteinTokenizer().encode(letters).tolist() == [0] * len(letters)


def test_the_sentencepiece_file_has_the_same_tokens():
    processor = sentencepiece.SentencePieceProcessor(model_file=str(SENTENCEPIECE_MODEL))
    assert tuple(processor.id_to_piece(i) for i in range(processor.vocab_size())) == VOCABULARY[:30]
    assert [line.split("\t")[0] for line in SENTENCEPIECE_VOCAB.read_text().splitlines()] == list(VOCABULARY[:30])


@given(PROTEINS)
def test_sentencepiece_agrees_on_residues(sequence):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(SENTENCEPIECE_MODEL))
    assert ProteinTokenizer().encode(sequence).tolist() == processor.encode(sequence)


@given(st.lists(st.text(alphabet=RESIDUES, max_size=50), max_size=8))
def test_packed_tokens_decode_to_the_sequences(sequences):
    tokenizer = ProteinTokenizer()
    tokens, cu_seqlens = tokenizer.encode_batch(sequences)
    assert tokens.dtype == np.int64 and cu_seqlens.dtype == np.int32
    for i, sequence in enumerate(sequences):
        assert tokenizer.decode(tokens[cu_seqlens[i] : cu_seqlens[i + 1]]) == sequence


def test_lower_case_is_read_as_upper_case_with_one_warning_and_a_count():
    tokenizer = ProteinTokenizer()
    with pytest.warns(UserWarning, match="lower-case") as caught:
        tokens, _ = tokenizer.encode_batch(["mslKR", "ms"])
        tokenizer.encode("kk")
    assert tokens.tolist() == [22, 7, 5, 16, 11, 22, 7]
    assert len(caught) == 1 and tokenizer.lowercase_residues == 7


@pytest.mark.parametrize("character", [" ", "\t", "1", ".", "\u00e9", "\u0410", "?"])
def test_the_error_names_record_position_and_character(character):
    with pytest.raises(ProtT5nvError) as caught:
        ProteinTokenizer().encode_batch(["MK", "", f"MSL{character}K"], ["P1", "P2", "P3"])
    assert str(caught.value).startswith(f"record 3 (P3), position 4: {character!r} is not a residue")


@pytest.mark.parametrize("token", [-1, 128])
def test_ids_outside_the_vocabulary_are_refused(token):
    with pytest.raises(ProtT5nvError, match=r"0\.\.127"):
        ProteinTokenizer().decode([token])
