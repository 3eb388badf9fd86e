"""Build the SentencePiece model of ProtT5nv: 30 characters in the order of the original vocabulary.

    python scripts/build_vocab.py

The files are written to prott5nv/assets/. SentencePiece orders characters by frequency, so the training text contains
each residue as often as its position in the vocabulary requires.
"""

from __future__ import annotations

import io

import sentencepiece

from prott5nv.assets import SENTENCEPIECE_MODEL, SENTENCEPIECE_VOCAB
from prott5nv.io.atomic import whole_file, write_text
from prott5nv.model.tokenizer import RESIDUES, VOCABULARY

VOCAB_SIZE = 30


def main() -> None:
    model = io.BytesIO()  # if SentencePiece wrote a file, it would record its name in the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(RESIDUES[:count] for count in range(1, len(RESIDUES) + 1)),
        model_writer=model,
        model_type="char",
        vocab_size=VOCAB_SIZE,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        user_defined_symbols=["<mask>"],
        add_dummy_prefix=False,
        normalization_rule_name="nmt_nfkc",
        minloglevel=1,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokens = tuple(processor.id_to_piece(i) for i in range(VOCAB_SIZE))
    if tokens != VOCABULARY[:VOCAB_SIZE]:
        raise SystemExit(f"error: SentencePiece built another vocabulary: {' '.join(tokens)}")
    with whole_file(SENTENCEPIECE_MODEL) as temporary:
        temporary.write_bytes(model.getvalue())
    scores = (f"{token}\t{processor.get_score(i):g}\n" for i, token in enumerate(tokens))
    write_text(SENTENCEPIECE_VOCAB, "".join(scores))
    print(f"wrote {SENTENCEPIECE_MODEL} and {SENTENCEPIECE_VOCAB.name}")


if __name__ == "__main__":
    main()
