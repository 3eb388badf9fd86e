"""Files x loaders x largest difference from what NeMo 1.x computed; then speed and memory at full size.

    python benchmarks/checkpoints.py ../shared/fixtures/nemo1_tiny --full

FOLDER holds checkpoints that NeMo 1.x wrote and ``groundtruth.npz`` with its outputs. The table's columns are ways to
open a file, its rows the files: the genuine ones, variants of them as other machines would have written, and our own.
A cell holds the largest difference of the hidden states, and that of the logits relative to the largest logit.

Shapes: B proteins, L residues of the longest, D hidden size.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from prott5nv import ModelConfig, ProtT5, load, seqs_to_embedding
from prott5nv.checkpoint import read_nemo, save_nemo
from prott5nv.model.attention import Packing

WEIGHTS = "./model_weights.ckpt"
GENUINE = ("prott5nv.nemo", "variant_flatcfg.nemo", "variant_gz.nemo")


def variants(folder: Path, scratch: Path) -> dict[str, Path]:
    """Every file of the table by its description."""
    files = {f"genuine {name}": folder / name for name in GENUINE}
    with tarfile.open(folder / GENUINE[0]) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    state = dict(torch.load(io.BytesIO(members[WEIGHTS]), weights_only=True))
    twice = {key: tensor.clone() for key, tensor in state.items()}
    once = {key: tensor for key, tensor in state.items() if "decoder_embedding" not in key}
    changed = {
        "shared tables stored twice": (twice, None),
        "shared tables stored once": (once, None),
        "storages tagged cuda:0": (state, "cuda:0"),
        "weights in fp16": ({key: tensor.half() for key, tensor in state.items()}, None),
        "weights in bf16": ({key: tensor.bfloat16() for key, tensor in state.items()}, None),
    }
    for description, (tensors, device) in changed.items():
        buffer = io.BytesIO()
        tag = mock.patch("torch.serialization.location_tag", lambda storage, device=device: device or "cpu")
        with tag:
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
    if find_spec("safetensors"):
        from prott5nv.checkpoint.huggingface import huggingface_to_nemo, nemo_to_huggingface

        nemo_to_huggingface(files["written by save_nemo"], scratch / "back")
        files["through Hugging Face and back"] = scratch / "back.nemo"
        huggingface_to_nemo(scratch / "back", files["through Hugging Face and back"])
    return files


def packed(ids_BL: np.ndarray, mask_BL: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    cu_seqlens_B1 = np.concatenate([[0], np.cumsum(mask_BL.sum(1))]).astype(np.int32)
    return torch.from_numpy(ids_BL[mask_BL]), torch.from_numpy(cu_seqlens_B1)


def with_prott5(path: Path, truth: dict) -> tuple[float, float]:
    """Largest difference of hidden states, and of logits relative to the largest."""
    model = load(path)
    tokens, cu_seqlens = packed(truth["token_ids"], truth["mask"])
    hidden = model.encode(tokens, cu_seqlens)
    tokens, cu_seqlens = packed(truth["dec_enc_ids"], truth["dec_enc_mask"])
    decoder = packed(truth["dec_ids"], truth["dec_mask"])
    logits = model.logits(model.decode(*decoder, model.encode(tokens, cu_seqlens), cu_seqlens))
    return differences(hidden, logits, truth)


def with_sequences(path: Path, truth: dict) -> tuple[float, None]:
    """The front door, on the letters themselves."""
    rows = seqs_to_embedding([str(each) for each in truth["sequences"]], model=path, device="cpu", precision="fp32")
    return max(float(np.abs(found - truth[f"single_{i}"]).max()) for i, found in enumerate(rows)), None


def with_megatron(path: Path, truth: dict) -> tuple[float, float]:
    """NeMo and Megatron-Core, for pretraining."""
    from prott5nv.pretraining.model import ProtT5nvModel

    model = ProtT5nvModel.restore_from(str(path)).eval().megatron
    tokens, cu_seqlens = packed(truth["token_ids"], truth["mask"])
    hidden = model.encode(tokens, Packing(cu_seqlens)).squeeze(1)
    names = ("enc_tokens", "enc_cu_seqlens", "dec_tokens", "dec_cu_seqlens")
    values = (*packed(truth["dec_enc_ids"], truth["dec_enc_mask"]), *packed(truth["dec_ids"], truth["dec_mask"]))
    return differences(hidden, model(dict(zip(names, values, strict=True))), truth)


def with_transformers(path: Path, truth: dict) -> tuple[float, float]:
    """Hugging Face's Blenderbot, from a converted folder."""
    from transformers import AutoModelForSeq2SeqLM

    from prott5nv.checkpoint.huggingface import nemo_to_huggingface

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


def differences(hidden: torch.Tensor, logits: torch.Tensor, truth: dict) -> tuple[float, float]:
    expected = truth["dec_logits"][truth["dec_mask"]]
    logits_difference = np.abs(logits.numpy() - expected).max() / np.abs(expected).max()
    return float(np.abs(hidden.numpy() - truth["hidden"][truth["mask"]]).max()), float(logits_difference)


LOADERS = {
    "ProtT5 (load)": (with_prott5, None),
    "seqs_to_embedding": (with_sequences, None),
    "ProtT5nvModel.restore_from": (with_megatron, "megatron"),
    "Hugging Face AutoModel": (with_transformers, "transformers"),
}

LOAD = """
import os, sys, time
import prott5nv.model.prott5
from prott5nv.checkpoint import load
def peak():  # of this process alone; getrusage starts from the parent's
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before, began = peak(), time.perf_counter()
model = load(sys.argv[1])
seconds, used, size = time.perf_counter() - began, peak() - before, os.path.getsize(sys.argv[1])
print(f"load: {seconds:.1f} s, {used / 1e6:,.0f} MB of memory for a file of {size / 1e6:,.0f} MB ({used / size:.2f}x)")
"""


def full_size(scratch: Path) -> None:
    model = ProtT5(ModelConfig())
    save_nemo(scratch / "full.nemo", model.config, model.state_dict())
    print(f"\n{model.config.num_parameters:,} parameters, fp32")
    for _ in range(2):
        subprocess.run([sys.executable, "-c", LOAD, scratch / "full.nemo"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--full", action="store_true", help="also load a file of the full size (0.8 GB of disk)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with np.load(arguments.folder / "groundtruth.npz") as file:
        truth = dict(file)
    loaders = {name: run for name, (run, needed) in LOADERS.items() if needed is None or find_spec(needed)}
    lines = []
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        for description, path in variants(arguments.folder, Path(name)).items():
            cells = []
            for run in loaders.values():
                hidden, logits = run(path, truth)
                cells.append(f"{hidden:.1e}" + ("" if logits is None else f" / {logits:.1e}"))
            lines.append(f"| {description} | " + " | ".join(cells) + " |")
    print("\n| file | " + " | ".join(loaders) + " |\n|---|" + "---|" * len(loaders))
    print("\n".join(lines))
    if arguments.full:
        with tempfile.TemporaryDirectory() as name:
            full_size(Path(name))


if __name__ == "__main__":
    main()
