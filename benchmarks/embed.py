"""Speed of embedding: ours, the machine's own best, and Hugging Face's models, in one run.

    python benchmarks/embed.py corpus.fasta.gz                              # full-size model, 64 proteins
    python benchmarks/embed.py corpus.fasta.gz --preset small --proteins 500

Residues counted are real ones. Work is that of the encoder's matrices, 2 operations a weight and residue; its share of
the best rate of the same products alone, in bf16, is how much of the machine is used. Weights are random.

Shapes: T residues of a batch, D hidden size, F feed-forward size.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch

from prott5nv import ModelConfig, ProtT5, ProtT5nvInference
from prott5nv.checkpoint import save_nemo
from prott5nv.checkpoint.huggingface import nemo_to_huggingface
from prott5nv.embedding.job import embed_file
from prott5nv.io.reader import read_records

PEER_RESIDUES = 4000  # a batch of the ProtTrans script


def seconds(work: Callable[[], object]) -> float:
    """Of the second of two runs."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matmul_rate(config: ModelConfig, rows: int) -> float:
    """Operations a second of one layer's four products in bf16, the best of three."""
    D, F = config.hidden_size, config.ffn_hidden_size
    layers = [torch.nn.Linear(i, o, dtype=torch.bfloat16) for i, o in ((D, 3 * D), (D, D), (D, F), (F, D))]
    inputs = [torch.randn(rows, layer.in_features, dtype=torch.bfloat16) for layer in layers]
    best = min(seconds(lambda: [layer(x_TD) for layer, x_TD in zip(layers, inputs, strict=True)]) for _ in range(3))
    return 2 * rows * sum(layer.weight.numel() for layer in layers) / best


def file_to_file(model: ProtT5nvInference, sequences: list[str], folder: str) -> None:
    fasta, output = Path(folder, "proteins.fasta"), Path(folder, "proteins.h5")
    fasta.write_text("".join(f">{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
    output.unlink(missing_ok=True)
    embed_file(fasta, output, model)


def padded_batches(sequences: list[str], tokenizer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Longest first, padded to the longest of a batch of at most 4,000 residues."""
    batch: list[str] = []
    for sequence in [*sorted(sequences, key=len, reverse=True), None]:
        if batch and (sequence is None or sum(map(len, batch)) + len(sequence) > PEER_RESIDUES):
            tokens = [torch.from_numpy(tokenizer.encode(protein)) for protein in batch]
            ids_BL = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
            lengths_B1 = torch.tensor([[len(protein)] for protein in batch])
            yield ids_BL, (torch.arange(ids_BL.shape[1]) < lengths_B1).long()
            batch = []
        batch.append(sequence)


@torch.inference_mode()
def run_peer(encoder: torch.nn.Module, sequences: list[str], tokenizer) -> None:
    """Rows of every protein by a Hugging Face encoder, back in fp32."""
    for ids_BL, mask_BL in padded_batches(sequences, tokenizer):
        hidden_BLD = encoder(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        hidden_BLD.float().numpy()


def t5_encoder(config: ModelConfig) -> torch.nn.Module:
    """Hugging Face's T5 of the same size: the architecture of ProtTrans."""
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


def blenderbot_encoder(network: ProtT5) -> torch.nn.Module:
    """The same weights in Hugging Face's own architecture."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_nemo(Path(folder, "model.nemo"), network.config, network.state_dict())
        nemo_to_huggingface(Path(folder, "model.nemo"), Path(folder, "hf"))
        return AutoModel.from_pretrained(Path(folder, "hf"), dtype=torch.float32).get_encoder().eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", help="Proteins whose lengths are to be embedded; longer ones than 512 are left out.")
    parser.add_argument("--proteins", type=int, default=64)
    parser.add_argument("--preset", default="prott5nv", choices=["prott5nv", "small", "tiny"])
    arguments = parser.parse_args()

    config = ModelConfig.preset(arguments.preset)
    records = (r.sequence for r in read_records(arguments.fasta) if len(r.sequence) <= config.max_position_embeddings)
    sequences = list(islice(records, 50 * arguments.proteins))
    sequences = random.Random(0).sample(sequences, min(arguments.proteins, len(sequences)))
    residues = sum(map(len, sequences))
    torch.manual_seed(0)
    network = ProtT5(config).eval()
    ours = {precision: ProtT5nvInference(network, precision=precision) for precision in ("bf16", "fp32")}
    tokenizer = ours["fp32"].tokenizer

    print(f"{len(sequences)} proteins, {residues:,} residues, {arguments.preset}, {torch.get_num_threads()} threads\n")
    # Before and after: the machine may be shared, and its best is its best.
    peak = matmul_rate(config, 2048)
    rates: dict[str, float] = {}
    for precision, model in ours.items():
        rates[f"prott5nv {precision}"] = residues / seconds(lambda model=model: list(model.embed(sequences)))
    with tempfile.TemporaryDirectory() as folder:
        rates["prott5nv bf16, FASTA to HDF5"] = residues / seconds(
            lambda: file_to_file(ours["bf16"], sequences, folder)
        )
    t5 = t5_encoder(config)
    rates["ProtTrans way: T5EncoderModel fp32"] = residues / seconds(lambda: run_peer(t5, sequences, tokenizer))
    blenderbot = blenderbot_encoder(network)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        blenderbot.to(dtype)
        rates[f"Hugging Face Blenderbot {precision}"] = residues / seconds(
            lambda: run_peer(blenderbot, sequences, tokenizer)
        )
    peak = max(peak, matmul_rate(config, 2048))

    operations = 2 * sum(p.numel() for name, p in network.encoder.named_parameters() if p.ndim == 2)
    print(
        f"Best bf16 products of the model's shapes: {peak / 1e9:,.0f} GFLOP/s = {peak / operations:,.0f} residues/s\n"
    )
    print("| | residues/s | share of the best products | prott5nv bf16 is faster by |\n|---|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate * operations / peak:.0%} | {rates['prott5nv bf16'] / rate:.1f} x |")


if __name__ == "__main__":
    main()
