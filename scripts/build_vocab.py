"""Build ProtT5nv's SentencePiece model: 30 CHAR pieces in the published order.

    python scripts/build_vocab.py

SentencePiece orders characters by how often they occur, so the training text is each residue as often as its rank
demands. The files land in prott5nv/assets/.
"""

import io

import sentencepiece

from prott5nv.assets import SENTENCEPIECE_MODEL, SENTENCEPIECE_VOCAB
from prott5nv.model.tokenizer import RESIDUES, VOCABULARY


def main() -> None:
    model = io.BytesIO()  # a file name would be recorded in the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(RESIDUES[:count] for count in range(1, len(RESIDUES) + 1)),
        model_writer=model,
        model_type="char",
        vocab_size=30,
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
    built = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    assert tuple(built.id_to_piece(i) for i in range(30)) == VOCABULARY[:30]
    SENTENCEPIECE_MODEL.write_bytes(model.getvalue())
    SENTENCEPIECE_VOCAB.write_text("".join(f"{built.id_to_piece(i)}\t{built.get_score(i):g}\n" for i in range(30)))
    print(f"wrote {SENTENCEPIECE_MODEL} and its .vocab")


if __name__ == "__main__":
    main()
