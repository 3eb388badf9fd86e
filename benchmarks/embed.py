"""Measure the speed of embedding on a CPU, beside Hugging Face's models and the machine's own matmul rate.

    python benchmarks/embed.py corpus.fasta.gz                              # full-size model, 64 proteins
    python benchmarks/embed.py corpus.fasta.gz --preset small --proteins 500

All models have the same size and random weights, and embed the same proteins in the same run. Residues per second count
real residues, not padding. "Fraction of matmul rate" compares the encoder's matmuls (2 operations per weight and
residue) with the best rate of the same matmuls alone: it shows how much of the machine is used. That rate is measured
in bf16, or in fp32 on CPUs without bf16 instructions.

Shapes: B proteins, L residues of the longest, T packed residues, D hidden size.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from common import argument_parser, describe_machine, matmul_rate, print_table, time_second_call

from prott5nv import Embedder, ModelConfig, ProteinTokenizer, ProtT5, limit_onednn_cache
from prott5nv.checkpoint import save_nemo
from prott5nv.checkpoint.huggingface import nemo_to_huggingface
from prott5nv.embedding.job import embed_file
from prott5nv.io.reader import read_records

HUGGING_FACE_BATCH = 4000  # residues in a batch, as in the ProtTrans script
REFERENCE = "prott5nv bf16"  # the row that the others are compared with


def read_sequences(path: Path, count: int, max_length: int) -> list[str]:
    """Sample proteins of at most `max_length` residues from the beginning of a file."""
    records = (record.sequence for record in read_records(path) if len(record.sequence) <= max_length)
    sequences = list(islice(records, 50 * count))
    return random.Random(0).sample(sequences, min(count, len(sequences)))


def embed_in_memory(embedder: Embedder, sequences: list[str]) -> None:
    for _ in embedder.embed(sequences):
        pass


def embed_files(embedder: Embedder, sequences: list[str], folder: str) -> None:
    fasta, output = Path(folder, "proteins.fasta"), Path(folder, "proteins.h5")
    fasta.write_text("".join(f">{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
    output.unlink(missing_ok=True)
    embed_file(fasta, output, embedder)


def padded_batches(sequences: list[str], tokenizer: ProteinTokenizer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token ids and attention masks, longest proteins first, padded to the longest of each batch."""
    batches: list[list[str]] = [[]]
    for sequence in sorted(sequences, key=len, reverse=True):
        if batches[-1] and sum(map(len, batches[-1])) + len(sequence) > HUGGING_FACE_BATCH:
            batches.append([])
        batches[-1].append(sequence)
    for batch in batches:
        tokens = [torch.from_numpy(tokenizer.encode(protein)) for protein in batch]
        ids_BL = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        lengths_B1 = torch.tensor([[len(protein)] for protein in batch])
        yield ids_BL, (torch.arange(ids_BL.shape[1]) < lengths_B1).long()


@torch.inference_mode()
def embed_with_hugging_face(encoder: torch.nn.Module, sequences: list[str], tokenizer: ProteinTokenizer) -> None:
    for ids_BL, mask_BL in padded_batches(sequences, tokenizer):
        hidden_BLD = encoder(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        hidden_BLD.float().numpy()


def t5_encoder(config: ModelConfig) -> torch.nn.Module:
    """Hugging Face's T5 encoder of the same size. The ProtTrans script uses this class."""
    from transformers import T5Config, T5EncoderModel

    heads = config.num_attention_heads
    shape = T5Config(
        vocab_size=config.padded_vocab_size,
        d_model=config.hidden_size,
        d_ff=config.ffn_hidden_size,
        d_kv=config.hidden_size // heads,
        num_layers=config.num_layers,
        num_heads=heads,
    )
    return T5EncoderModel(shape).eval()


def blenderbot_encoder(model: ProtT5) -> torch.nn.Module:
    """The same weights in Blenderbot, the Hugging Face architecture that matches ProtT5nv."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_nemo(Path(folder, "model.nemo"), model.config, model.state_dict())
        nemo_to_huggingface(Path(folder, "model.nemo"), Path(folder, "hf"))
        return AutoModel.from_pretrained(Path(folder, "hf"), dtype=torch.float32).get_encoder().eval()


def measure(model: ProtT5, sequences: list[str]) -> dict[str, float]:
    """Residues per second of every way to embed the proteins."""
    tokenizer = ProteinTokenizer()
    embedders = {name: Embedder(model, device="cpu", precision=name) for name in ("bf16", "fp32")}

    def rate(work: Callable[[], object]) -> float:
        return sum(map(len, sequences)) / time_second_call(work)

    rates = {f"prott5nv {name}": rate(partial(embed_in_memory, each, sequences)) for name, each in embedders.items()}
    with tempfile.TemporaryDirectory() as folder:
        rates["prott5nv bf16, FASTA to HDF5"] = rate(partial(embed_files, embedders["bf16"], sequences, folder))
    t5 = t5_encoder(model.config)
    rates["ProtTrans script: T5EncoderModel fp32"] = rate(partial(embed_with_hugging_face, t5, sequences, tokenizer))
    blenderbot = blenderbot_encoder(model)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        blenderbot.to(dtype)
        rates[f"Hugging Face Blenderbot {name}"] = rate(
            partial(embed_with_hugging_face, blenderbot, sequences, tokenizer)
        )
    return rates


def main() -> None:
    limit_onednn_cache()
    parser = argument_parser(__doc__)
    parser.add_argument("fasta", type=Path, help="Proteins to sample from. Those that exceed the model are left out.")
    parser.add_argument("--proteins", type=int, default=64, help="Number of proteins to embed.")
    parser.add_argument("--preset", default="prott5nv", choices=ModelConfig.preset_names(), help="Size of the models.")
    arguments = parser.parse_args()
    config = ModelConfig.preset(arguments.preset)
    sequences = read_sequences(arguments.fasta, arguments.proteins, config.max_position_embeddings)
    residues = sum(map(len, sequences))
    print(f"{len(sequences)} proteins, {residues:,} residues, {arguments.preset}, {describe_machine()}\n")

    torch.manual_seed(0)
    model = ProtT5(config).eval()
    before = matmul_rate(config)
    rates = measure(model, sequences)
    peak = max(before, matmul_rate(config))  # other programs may slow down one of the two measurements

    operations = 2 * sum(p.numel() for p in model.encoder.parameters() if p.ndim == 2)
    print(f"Best rate of the model's matmuls: {peak / 1e9:,.0f} GFLOP/s = {peak / operations:,.0f} residues/s\n")
    columns = ("method", "residues/s", "fraction of matmul rate", f"speed-up of {REFERENCE}")
    rows = (
        (name, f"{rate:,.0f}", f"{rate * operations / peak:.0%}", f"{rates[REFERENCE] / rate:.1f} x")
        for name, rate in rates.items()
    )
    print_table(columns, rows)


if __name__ == "__main__":
    main()
