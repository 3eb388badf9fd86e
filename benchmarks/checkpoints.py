"""Compare every way to load a checkpoint with the outputs of NeMo 1.x, and measure loading at full size.

    python benchmarks/checkpoints.py FOLDER
    python benchmarks/checkpoints.py FOLDER --full

FOLDER holds checkpoints that NeMo 1.x wrote, and ``groundtruth.npz`` with the outputs of NeMo 1.x. Each row of the
table is a file: the genuine ones, variants of them as other machines would have written them, and our own. Each column
is a way to load it. A cell holds the largest difference of the hidden states, and the largest difference of the logits
relative to the largest logit. ``--full`` also loads a file of the full size and prints time and memory.

Shapes: B proteins, L residues of the longest.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from common import argument_parser, print_table, save_random_model, tar_members

from prott5nv import ModelConfig, seqs_to_embedding
from prott5nv.checkpoint import read_nemo, save_nemo
from prott5nv.checkpoint.huggingface import huggingface_to_nemo, nemo_to_huggingface
from prott5nv.checkpoint.reader import load
from prott5nv.model.attention import Packing

WEIGHTS = "./model_weights.ckpt"
GENUINE = ("prott5nv.nemo", "variant_flatcfg.nemo", "variant_gz.nemo")

Truth = Mapping[str, np.ndarray]
Differences = tuple[float, float | None]


def variants(folder: Path, scratch: Path) -> dict[str, Path]:
    """Write the variants into `scratch` and return every file of the table by its description."""
    files = {f"genuine {name}": folder / name for name in GENUINE}
    members = tar_members(folder / GENUINE[0])
    state = dict(torch.load(io.BytesIO(members[WEIGHTS]), weights_only=True))
    changed = {
        "shared tables stored twice": ({key: tensor.clone() for key, tensor in state.items()}, "cpu"),
        "shared tables stored once": ({key: t for key, t in state.items() if "decoder_embedding" not in key}, "cpu"),
        "storages tagged cuda:0": (state, "cuda:0"),
        "weights in fp16": ({key: tensor.half() for key, tensor in state.items()}, "cpu"),
        "weights in bf16": ({key: tensor.bfloat16() for key, tensor in state.items()}, "cpu"),
    }
    for description, (tensors, device) in changed.items():
        buffer = io.BytesIO()
        with mock.patch("torch.serialization.location_tag", return_value=device):
            torch.save(tensors, buffer)
        files[description] = scratch / f"{len(files)}.nemo"
        with tarfile.open(files[description], "w") as tar:
            for name, content in {**members, WEIGHTS: buffer.getvalue()}.items():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    genuine = read_nemo(folder / GENUINE[0])
    files["written by save_nemo"] = scratch / "ours.nemo"
    save_nemo(files["written by save_nemo"], genuine.config, genuine.state_dict)
    nemo_to_huggingface(files["written by save_nemo"], scratch / "back")
    files["through Hugging Face and back"] = scratch / "back.nemo"
    huggingface_to_nemo(scratch / "back", files["through Hugging Face and back"])
    return files


def packed(ids_BL: np.ndarray, mask_BL: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove the padding; returns the tokens and where each protein begins."""
    cu_seqlens_B1 = np.concatenate([[0], np.cumsum(mask_BL.sum(1))]).astype(np.int32)
    return torch.from_numpy(ids_BL[mask_BL]), torch.from_numpy(cu_seqlens_B1)


def with_prott5(path: Path, truth: Truth) -> Differences:
    """Load the PyTorch model."""
    model = load(path)
    tokens, cu_seqlens = packed(truth["token_ids"], truth["mask"])
    hidden = model.encode(tokens, cu_seqlens)
    tokens, cu_seqlens = packed(truth["dec_enc_ids"], truth["dec_enc_mask"])
    decoder = packed(truth["dec_ids"], truth["dec_mask"])
    logits = model.logits(model.decode(*decoder, model.encode(tokens, cu_seqlens), cu_seqlens))
    return differences(hidden, logits, truth)


def with_sequences(path: Path, truth: Truth) -> Differences:
    """Embed the sequences themselves; there are no logits."""
    rows = seqs_to_embedding([str(each) for each in truth["sequences"]], model=path, device="cpu", precision="fp32")
    return max(float(np.abs(rows_LD - truth[f"single_{i}"]).max()) for i, rows_LD in enumerate(rows)), None


def with_megatron(path: Path, truth: Truth) -> Differences:
    """Load the model of pretraining, on NeMo and Megatron-Core."""
    from prott5nv.pretraining.model import ProtT5nvModel

    model = ProtT5nvModel.restore_from(str(path)).eval().megatron
    tokens, cu_seqlens = packed(truth["token_ids"], truth["mask"])
    hidden = model.encode(tokens, Packing(cu_seqlens)).squeeze(1)
    names = ("enc_tokens", "enc_cu_seqlens", "dec_tokens", "dec_cu_seqlens")
    values = (*packed(truth["dec_enc_ids"], truth["dec_enc_mask"]), *packed(truth["dec_ids"], truth["dec_mask"]))
    return differences(hidden, model(dict(zip(names, values, strict=True))), truth)


def with_transformers(path: Path, truth: Truth) -> Differences:
    """Convert to a Hugging Face folder and load it as Blenderbot."""
    from transformers import AutoModelForSeq2SeqLM

    with tempfile.TemporaryDirectory() as scratch:
        nemo_to_huggingface(path, f"{scratch}/folder")
        model = AutoModelForSeq2SeqLM.from_pretrained(f"{scratch}/folder", dtype=torch.float32).eval()
    tensors = {name: torch.from_numpy(array) for name, array in truth.items() if name != "sequences"}
    mask_BL, decoder_mask = tensors["mask"], tensors["dec_mask"]
    hidden = model.get_encoder()(input_ids=tensors["token_ids"], attention_mask=mask_BL.long()).last_hidden_state
    logits = model(
        input_ids=tensors["dec_enc_ids"],
        attention_mask=tensors["dec_enc_mask"].long(),
        decoder_input_ids=tensors["dec_ids"],
    ).logits
    return differences(hidden[mask_BL], logits[decoder_mask], truth)


def differences(hidden: torch.Tensor, logits: torch.Tensor, truth: Truth) -> Differences:
    """Largest difference of the hidden states, and of the logits relative to the largest logit."""
    expected = truth["dec_logits"][truth["dec_mask"]]
    logits_difference = np.abs(logits.numpy() - expected).max() / np.abs(expected).max()
    return float(np.abs(hidden.numpy() - truth["hidden"][truth["mask"]]).max()), float(logits_difference)


# Each way to load a file, and the package that it needs.
LOADERS: dict[str, tuple[Callable[[Path, Truth], Differences], str | None]] = {
    "ProtT5 (load)": (with_prott5, None),
    "seqs_to_embedding": (with_sequences, None),
    "ProtT5nvModel.restore_from": (with_megatron, "megatron"),
    "Hugging Face AutoModel": (with_transformers, "transformers"),
}

# Runs in a process of its own. Its peak memory comes from /proc, because getrusage counts from the parent's size.
MEASURE_LOADING = """
import os, sys, time
import prott5nv.model.prott5
from prott5nv.checkpoint import load
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before, began = peak(), time.perf_counter()
model = load(sys.argv[1])
seconds, used, size = time.perf_counter() - began, peak() - before, os.path.getsize(sys.argv[1])
print(f"load: {seconds:.1f} s, {used / 1e6:,.0f} MB of memory for a file of {size / 1e6:,.0f} MB ({used / size:.2f}x)")
"""


def measure_full_size(scratch: Path) -> None:
    """Load a file of the full size twice; the second time it is in the operating system's file cache."""
    config = ModelConfig()
    file = save_random_model(scratch / "full.nemo", config)
    print(f"\n{config.num_parameters:,} parameters, fp32", flush=True)
    for _ in range(2):
        subprocess.run([sys.executable, "-c", MEASURE_LOADING, file], check=True)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Genuine checkpoints and groundtruth.npz.")
    parser.add_argument("--full", action="store_true", help="Also load a file of the full size (0.8 GB of disk space).")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with np.load(arguments.folder / "groundtruth.npz") as file:
        truth = dict(file)
    loaders = {name: run for name, (run, needed) in LOADERS.items() if needed is None or find_spec(needed)}

    def rows(scratch: Path) -> Iterator[Sequence[str]]:
        for description, path in variants(arguments.folder, scratch).items():
            cells = []
            for run in loaders.values():
                hidden, logits = run(path, truth)
                cells.append(f"{hidden:.1e}" + ("" if logits is None else f" / {logits:.1e}"))
            yield description, *cells

    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        table = list(rows(Path(name)))  # collected first, because the libraries print while they load
    print_table(("file", *loaders), table)
    if arguments.full:
        with tempfile.TemporaryDirectory() as name:
            measure_full_size(Path(name))


if __name__ == "__main__":
    main()
