"""Damaged predictors in safetensors, and damaged Hugging Face folders."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import torch
from mutants import Outcome, attack, damaged, outcome_of, run_attempts

from prott5nv import ModelConfig, ProtT5
from prott5nv.checkpoint import read_nemo, save_nemo
from prott5nv.checkpoint.huggingface import huggingface_to_nemo, nemo_to_huggingface
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.heads import make_head
from prott5nv.flip.predictor import Predictor
from prott5nv.flip.predictor_file import save_predictor
from prott5nv.flip.tasks import OutputSpec
from prott5nv.io.record import Record

_HEAD: dict[str, Any] = {"name": "mlp", "hidden_size": 4, "dropout": 0.1}
_DAMAGED_FILES = ("config.json", "config.json", "model.safetensors")


def _model() -> ProtT5:
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=1,
        hidden_size=8,
        ffn_hidden_size=16,
        num_attention_heads=2,
        seq_length=16,
        max_position_embeddings=16,
    )
    return ProtT5(config).eval()


def load_predictor(path: Path) -> Any:
    """Load a predictor and predict a protein."""
    predictor = Predictor(path, device="cpu")
    try:
        [prediction] = predictor.predict([Record("P1", "MSLKRAGHKVLAWQDEYN", "P1", 1)])
    except ProtT5nvError as error:  # it names the protein
        raise ProtT5nvError(f"{path}: {error}") from None
    return predictor.output_spec, predictor.head_settings, prediction.rows.tobytes()


def attack_predictors(folder: Path, files: int, seed: int) -> Outcome:
    """Load damaged predictors. Half of the damage is in the first 2 kB, where the metadata are."""
    path = folder / "model.safetensors"
    spec = OutputSpec("scl", "mixed_soft", "protein", "class", ("Nucleus", "Membrane"))
    save_predictor(path, _model(), make_head("protein", 8, 2, **_HEAD), _HEAD, spec, 64 * "a")

    def damage(rng: random.Random, content: bytes) -> bytes:
        return damaged(rng, content) if rng.random() < 0.5 else damaged(rng, content[:2000]) + content[2000:]

    return attack([path], load_predictor, files, seed, damage)


def convert(folder: Path) -> Any:
    """Convert a folder to a checkpoint beside it, and read that."""
    path = folder.with_name("out.nemo")
    try:
        huggingface_to_nemo(folder, path)
        file = read_nemo(path)
        return file.config, {name: tensor.numpy().tobytes() for name, tensor in file.state_dict.items()}
    finally:
        path.unlink(missing_ok=True)


def attack_folders(folder: Path, files: int, seed: int) -> Outcome:
    """Convert Hugging Face folders in which one file is damaged."""
    model = _model()
    save_nemo(folder / "model.nemo", model.config, model.state_dict())
    valid = folder / "hf"
    nemo_to_huggingface(folder / "model.nemo", valid)
    expected = convert(valid)

    def attempt(number: int, work: Path) -> tuple[str, str]:
        rng = random.Random(f"{seed} {number}")
        copy = work / "hf"
        shutil.copytree(valid, copy)
        file = copy / rng.choice(_DAMAGED_FILES)
        file.write_bytes(damaged(rng, file.read_bytes()))
        result = outcome_of(lambda: convert(copy) == expected, copy)
        shutil.rmtree(copy)
        return result

    return run_attempts(attempt, [f"folder {number}" for number in range(files)])
