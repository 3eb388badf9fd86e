"""Measure the speed of embedding, beside Hugging Face's models and the machine's own matmul rate.

    python benchmarks/embed.py                                              # full-size model, 64 generated proteins
    python benchmarks/embed.py --proteins 20000                             # on a GPU
    python benchmarks/embed.py corpus.fasta.gz --preset small --proteins 500
    python benchmarks/embed.py corpus.fasta.gz --family prott5-xl --layers 4 --proteins 24

With --family, the models have the configuration of a published protein T5 model. The run also measures the memory that
loading takes, and how much a protein's embedding depends on its batch. All layers of these models have the same size,
so a few of them show the speed; the whole ProtT5-XL in fp32 needs 10 GB of memory and 5 GB of disk, for both packages.

All models have the same size and random weights, and embed the same proteins in the same run. Residues per second count
real residues, not padding. "Fraction of matmul rate" compares the encoder's matmuls (2 operations per weight and
residue) with the best rate of matmuls alone: it shows how much of the machine is used. On a CPU, that is the rate of
the model's own matmuls, in bf16, or in fp32 on CPUs without bf16 instructions. On a GPU, it is the rate of large
matmuls in bf16. "Encoder only" is the network on batches that are on the GPU already, whose results stay there. Files
are written for the first proteins only, and Hugging Face's models embed only these.

Shapes: B proteins, L residues of the longest, T packed residues, D hidden size.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from common import argument_parser, describe_machine, matmul_rate, print_table, time_second_call
from data import write_csv

from prott5nv import Embedder, ModelConfig, ProtT5, limit_onednn_cache
from prott5nv.checkpoint import save_nemo
from prott5nv.checkpoint.huggingface import nemo_to_huggingface
from prott5nv.embedding.batching import batches_of
from prott5nv.embedding.job import embed_file
from prott5nv.io.reader import read_records
from prott5nv.model.device import choose_hardware
from prott5nv.model.encoder import Encoder
from prott5nv.model.t5_tokenizer import INPUTS
from prott5nv.model.tokenizer import ResidueTokenizer
from prott5nv.pretraining.flops import matmul_peak

HUGGING_FACE_BATCH = 4000  # residues in a batch, as in the ProtTrans script
GPU_BATCH = 65_536  # residues in a batch of a GPU
GPU_CALLS = 3  # timed calls of each method on a GPU; their median is printed
FILE_PROTEINS = 4000  # proteins whose embeddings are written to files on a GPU
END = 1  # token behind each protein of a T5 model
FAMILIES: dict[str, dict[str, Any]] = {
    "prott5-xl": dict(d_model=1024, d_kv=128, d_ff=16384, num_layers=24, num_heads=32, vocab_size=128),
    "ankh-base": dict(d_model=768, d_kv=64, d_ff=3072, num_layers=48, num_heads=12, vocab_size=144)
    | dict(relative_attention_num_buckets=64, feed_forward_proj="gated-gelu"),
    "ankh-large": dict(d_model=1536, d_kv=64, d_ff=3840, num_layers=48, num_heads=16, vocab_size=144)
    | dict(relative_attention_num_buckets=64, feed_forward_proj="gated-gelu"),
}
# Runs in a process of its own, and prints how much memory loading takes.
MEASURE_LOADING = """
import sys
import torch
import prott5nv.checkpoint.t5_folder
from prott5nv.checkpoint import load
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
model = load(sys.argv[1], torch.bfloat16)
print((peak() - before) / sum(2 * parameter.numel() for parameter in model.parameters()))
"""


def generated_sequences(count: int) -> list[str]:
    """Return random proteins whose lengths are distributed like those of UniRef50."""
    with tempfile.TemporaryDirectory() as folder:
        write_csv(Path(folder, "train"), max(count, 1000))
        records = chain.from_iterable(map(read_records, sorted(Path(folder, "train").iterdir())))
        return [record.sequence for record in islice(records, count)]


def read_sequences(path: Path, count: int, max_length: int | None) -> list[str]:
    """Sample proteins of at most `max_length` residues from the beginning of a file."""
    records = (
        record.sequence for record in read_records(path) if max_length is None or len(record.sequence) <= max_length
    )
    sequences = list(islice(records, 50 * count))
    return random.Random(0).sample(sequences, min(count, len(sequences)))


def embed_in_memory(embedder: Embedder, sequences: list[str], **options: Any) -> None:
    for _ in embedder.embed(sequences, **options):
        pass


def embed_files(embedder: Embedder, sequences: list[str], folder: str, dtype: str = "float32") -> None:
    fasta, output = Path(folder, "proteins.fasta"), Path(folder, "proteins.h5")
    fasta.write_text("".join(f">{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
    output.unlink(missing_ok=True)
    embed_file(fasta, output, embedder, dtype=dtype)


def rate(embed: Callable[[list[str]], object], sequences: list[str], calls: int = 1) -> float:
    """Residues per second with which a function embeds these proteins: the median of some calls after the first one."""
    return sum(map(len, sequences)) / time_second_call(partial(embed, sequences), calls)


@torch.inference_mode()
def encoder_rate(embedder: Embedder, sequences: list[str]) -> float:
    """Residues per second of the network alone, on batches that are on the device already."""
    batches = []
    for batch in batches_of(sorted(sequences, key=len, reverse=True), len, GPU_BATCH):
        tokens = torch.from_numpy(embedder.tokenizer.encode_batch(batch, batch)[0])
        ends = torch.tensor([0, *map(len, batch)]).cumsum(0).int()
        batches.append((tokens.to(embedder.hardware.device), ends))

    def encode(_sequences: list[str]) -> None:
        for tokens_T, cu_seqlens_B1 in batches:
            embedder.network.encode(tokens_T, cu_seqlens_B1)
        torch.cuda.synchronize()

    return rate(encode, sequences, GPU_CALLS)


def padded_batches(
    sequences: list[str],
    tokenizer: ResidueTokenizer,
    suffix: Sequence[int] = (),
    residues_per_batch: int = HUGGING_FACE_BATCH,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token ids and attention masks, longest proteins first, padded to the longest of each batch."""
    batches: list[list[str]] = [[]]
    for sequence in sorted(sequences, key=len, reverse=True):
        if batches[-1] and sum(map(len, batches[-1])) + len(sequence) > residues_per_batch:
            batches.append([])
        batches[-1].append(sequence)
    for batch in batches:
        tokens = [torch.tensor([*tokenizer.encode(protein), *suffix]) for protein in batch]
        ids_BL = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        lengths_B1 = torch.tensor([[len(protein) + len(suffix)] for protein in batch])
        yield ids_BL, (torch.arange(ids_BL.shape[1]) < lengths_B1).long()


@torch.inference_mode()
def embed_with_hugging_face(
    encoder: torch.nn.Module,
    sequences: list[str],
    tokenizer: ResidueTokenizer,
    suffix: Sequence[int] = (),
    residues_per_batch: int = HUGGING_FACE_BATCH,
) -> list[torch.Tensor]:
    """Return the rows of the longest protein first, with those of the tokens in `suffix`."""
    rows: list[torch.Tensor] = []
    device = next(encoder.parameters()).device
    for ids_BL, mask_BL in padded_batches(sequences, tokenizer, suffix, residues_per_batch):
        inputs = {"input_ids": ids_BL.to(device), "attention_mask": mask_BL.to(device)}
        hidden_BLD = encoder(**inputs).last_hidden_state.float().cpu()
        rows += (hidden[:length] for hidden, length in zip(hidden_BLD, mask_BL.sum(1).tolist(), strict=True))
    return rows


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


def measure(model: ProtT5, sequences: list[str]) -> Iterator[tuple[str, float]]:
    """Yield each way to embed the proteins on a CPU, and its residues per second."""
    tokenizer = model.tokenizer
    embedders = {name: Embedder(model, device="cpu", precision=name) for name in ("bf16", "fp32")}
    for name, embedder in embedders.items():
        yield f"prott5nv {name}", rate(partial(embed_in_memory, embedder), sequences)
    with tempfile.TemporaryDirectory() as folder:
        yield "prott5nv bf16, FASTA to HDF5", rate(partial(embed_files, embedders["bf16"], folder=folder), sequences)
    t5 = t5_encoder(model.config)
    run = partial(embed_with_hugging_face, t5, tokenizer=tokenizer)
    yield "ProtTrans script: T5EncoderModel fp32", rate(run, sequences)
    blenderbot = blenderbot_encoder(model)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        blenderbot.to(dtype)
        run = partial(embed_with_hugging_face, blenderbot, tokenizer=tokenizer)
        yield f"Hugging Face Blenderbot {name}", rate(run, sequences)


def measure_on_gpu(model: ProtT5, sequences: list[str]) -> Iterator[tuple[str, float]]:
    """Yield each way to embed the proteins on a GPU, and its residues per second."""
    forms: dict[str, dict[str, Any]] = {
        "pooling=mean": {"pooling": "mean"},
        "per residue, float16": {"dtype": "float16"},
        "per residue, float32": {},
    }
    few = sequences[:FILE_PROTEINS]
    for suffix, compiled in (("", False), (", compiled", True)):
        embedder = Embedder(model, device="cuda", compile=compiled)
        yield f"encoder only{suffix}", encoder_rate(embedder, sequences)
        for name, options in forms.items():
            yield f"prott5nv{suffix}, {name}", rate(partial(embed_in_memory, embedder, **options), sequences, GPU_CALLS)
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float16", "float32"):
            name = f"prott5nv compiled, FASTA to HDF5, {dtype}, {len(few):,} proteins"
            yield name, rate(partial(embed_files, embedder, folder=folder, dtype=dtype), few)
    for name, network, size in (
        ("ProtTrans script: T5EncoderModel", t5_encoder(model.config), HUGGING_FACE_BATCH),
        ("T5EncoderModel, large batches", t5_encoder(model.config), GPU_BATCH),
        ("Hugging Face Blenderbot, large batches", blenderbot_encoder(model), GPU_BATCH),
    ):
        network.to("cuda", torch.bfloat16)
        run = partial(embed_with_hugging_face, network, tokenizer=model.tokenizer, residues_per_batch=size)
        yield f"{name}, {len(few):,} proteins", rate(run, few, GPU_CALLS)


def measure_family(settings: dict[str, Any], sequences: list[str]) -> tuple[list[tuple[str, float]], Encoder]:
    """Return the rates of a T5 model. Prints the memory that loading takes, and the differences between batches."""
    from transformers import T5Config, T5EncoderModel

    with tempfile.TemporaryDirectory() as folder:
        encoder = T5EncoderModel(T5Config(**settings)).eval()
        encoder.save_pretrained(folder)
        tokens = {"<pad>": 0, "</s>": END, "<unk>": 2} | {letter: 3 + i for i, letter in enumerate(INPUTS["aa"])}
        vocabulary = {"model": {"type": "WordLevel", "vocab": tokens}}
        Path(folder, "tokenizer.json").write_text(json.dumps(vocabulary))
        done = subprocess.run(
            [sys.executable, "-c", MEASURE_LOADING, folder], capture_output=True, check=True, text=True
        )
        print(f"Memory to load it in bf16: {float(done.stdout):.2f} times its size\n")
        precisions = dict.fromkeys([choose_hardware("cpu").precision, "fp32"])  # without bf16 instructions, it is slow
        embedders = {name: Embedder(folder, device="cpu", precision=name) for name in precisions}
    network = embedders["fp32"]._network
    rates = [(f"prott5nv {name}", rate(partial(embed_in_memory, each), sequences)) for name, each in embedders.items()]
    run = partial(embed_with_hugging_face, encoder, tokenizer=network.tokenizer, suffix=[END])
    rates.append(("ProtTrans script: T5EncoderModel fp32", rate(run, sequences)))
    longest_first = sorted(sequences, key=len, reverse=True)
    alone = [run([sequence])[0] for sequence in longest_first]
    report_difference("ProtTrans script", run(longest_first), alone)
    ours = embedders["fp32"]
    together = [torch.from_numpy(rows) for _, rows in ours.embed(longest_first)]
    separate = [torch.from_numpy(rows) for sequence in longest_first for _, rows in ours.embed([sequence])]
    report_difference("prott5nv fp32", together, separate)
    report_difference("prott5nv fp32 and T5EncoderModel fp32", together, [rows[:-1] for rows in alone])
    return rates, network


def report_difference(name: str, first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    """Print the largest difference between two lists of rows, as a fraction of the largest value."""
    largest = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(first, second, strict=True))
    print(f"Largest difference of a protein, {name}: {largest:.1e}\n")


def main() -> None:
    limit_onednn_cache()
    parser = argument_parser(__doc__)
    parser.add_argument(
        "fasta", type=Path, nargs="?", help="Proteins to sample from, without those that exceed the model."
    )
    parser.add_argument("--proteins", type=int, default=64, help="Number of proteins to embed.")
    parser.add_argument("--preset", default="prott5nv", choices=ModelConfig.preset_names(), help="Size of the models.")
    parser.add_argument("--family", choices=FAMILIES, help="Measure a published T5 model instead of ProtT5nv.")
    parser.add_argument("--layers", type=int, help="With --family: number of layers instead of all.")
    arguments = parser.parse_args()
    config = ModelConfig.preset(arguments.preset)
    limit = None if arguments.family else config.max_position_embeddings
    if arguments.fasta is None:
        sequences = generated_sequences(arguments.proteins)
    else:
        sequences = read_sequences(arguments.fasta, arguments.proteins, limit)
    residues = sum(map(len, sequences))
    name = arguments.family or arguments.preset
    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.family else "cpu")
    print(f"{len(sequences)} proteins, {residues:,} residues, {name}, {describe_machine(device)}\n")

    torch.manual_seed(0)
    model: Encoder
    rates: Iterable[tuple[str, float]]
    if arguments.family:
        settings = FAMILIES[arguments.family]
        rates, model = measure_family(settings | {"num_layers": arguments.layers or settings["num_layers"]}, sequences)
    else:
        model = ProtT5(config).eval()
        rates = measure_on_gpu(model, sequences) if device.type == "cuda" else measure(model, sequences)
    peak = matmul_peak(device, torch.bfloat16) if device.type == "cuda" else matmul_rate(model.encoder)

    operations = 2 * sum(p.numel() for p in model.encoder.parameters() if p.ndim == 2)
    print(f"Best rate of matmuls: {peak / 1e9:,.0f} GFLOP/s = {peak / operations:,.0f} residues/s\n")
    remaining = iter(rates)
    reference, first = next(remaining)
    rows = (
        (name, f"{rate:,.0f}", f"{rate * operations / peak:.0%}", f"{first / rate:.1f} x")
        for name, rate in chain([(reference, first)], remaining)
    )
    print_table(("method", "residues/s", "fraction of matmul rate", f"speed-up of {reference}"), rows)


if __name__ == "__main__":
    main()
