"""Log-probabilities computed naively: one protein, one hypothesis, and a full decoder run for every residue."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prott5nv import ProteinTokenizer, ProtT5
from prott5nv.model.tokenizer import BOS, FIRST_SENTINEL

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def boundaries(tokens: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, len(tokens)], dtype=torch.int32)


@torch.no_grad()
def expected(model: ProtT5, sequence: str, indices: Sequence[int], residues: str) -> torch.Tensor:
    """Log-probabilities of the amino acids at each masked residue, given `residues` before it: shape=(K, 20)."""
    encode = ProteinTokenizer().encode
    encoder_tokens = encode(sequence).tolist()
    for number, index in enumerate(indices):
        encoder_tokens[index] = FIRST_SENTINEL + number
    hidden_LD = model.encode(torch.tensor(encoder_tokens), boundaries(encoder_tokens))
    rows, decoder_tokens = [], [BOS]
    for number, residue in enumerate(residues):
        decoder_tokens.append(FIRST_SENTINEL + number)
        decoded_ND = model.decode(
            torch.tensor(decoder_tokens), boundaries(decoder_tokens), hidden_LD, boundaries(encoder_tokens)
        )
        logits_V = model.logits(decoded_ND)[-1]
        rows.append(logits_V[torch.from_numpy(encode(AMINO_ACIDS))].log_softmax(-1))
        decoder_tokens += encode(residue).tolist()
    return torch.stack(rows)


def log_probability(model: ProtT5, sequence: str, indices: Sequence[int], residues: str) -> float:
    """Log-probability of these residues at these indices, masked together."""
    rows_KA = expected(model, sequence, indices, residues)
    return float(sum(row_A[AMINO_ACIDS.index(letter)] for row_A, letter in zip(rows_KA, residues, strict=True)))
