"""Damaged and hostile checkpoints of pretraining.

    python benchmarks/attack/ckpt.py --files 1500

- *damaged* files have flipped, cut, copied or overwritten bytes. The checksum must refuse all of them, and pretraining
  must then find the checkpoint before it.
- *sealed* files are damaged in the same ways, and their checksum is right.
- *crafted* files are what ``torch.save`` writes for changed content, also with a right checksum: values of other types
  and sizes, missing and additional keys, objects that run code, data that are nested in themselves.

A sealed or crafted file must be refused in one line, or load completely: model, optimizer, schedule and loops.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.trainer.states import TrainerFn
from mutants import CHANGED, FAILURES, REFUSED, RIGHT, Outcome, damaged, outcome_of, run_attempts
from omegaconf import DictConfig, OmegaConf

from prott5nv.assets import config_folder
from prott5nv.cli.hydra_app import quiet
from prott5nv.data import CSV_HEADER
from prott5nv.pretraining.callbacks import WholeCheckpointIO
from prott5nv.pretraining.checkpoint_files import (
    _append_checksum,
    checkpoint_name,
    find_checkpoint,
    read_checkpoint,
)
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.presets import register

KINDS = ("damaged", "sealed", "crafted")
_SETTINGS = (
    "model=tiny",
    "model.num_layers=1",
    "model.decoder_num_layers=1",
    "model.hidden_size=8",
    "model.ffn_hidden_size=8",
    "model.num_attention_heads=1",
    "model.data.num_workers=0",
    "model.global_batch_size=2",
    "model.micro_batch_size=2",
    "trainer.max_steps=2",
)


class Run:
    """A finished run of two steps with a tiny model, and the checkpoint of its last step.

    Parameters
    ----------
    folder : Path
        Empty folder for the data and the checkpoint.
    """

    def __init__(self, folder: Path):
        self.path = folder / checkpoint_name(2)
        (folder / "train").mkdir()
        rows = [f"{number},P{number},5,MSLKR" for number in range(4)]
        (folder / "train" / "x000.csv").write_text("\n".join([CSV_HEADER.decode(), *rows, ""]))
        self.cfg = _configuration(folder)
        self.trainer, self.model = _trained(self.cfg)
        self.trainer.save_checkpoint(self.path)
        self.content = read_checkpoint(self.path)

    def load(self, path: Path) -> bool:
        """Load a checkpoint as resuming does, and return whether all numbers are those of the undamaged one."""
        trainer, model = self.trainer, self.model
        trainer.state.fn = TrainerFn.FITTING
        checkpoint = WholeCheckpointIO().load_checkpoint(path)
        trainer._checkpoint_connector._ckpt_path = path
        model._checks.recent = model._checks.recent[:0]
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        trainer.optimizers[0].load_state_dict(checkpoint["optimizer_states"][0])
        trainer.lr_scheduler_configs[0].scheduler.load_state_dict(checkpoint["lr_schedulers"][0])
        trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])
        saved = trainer._checkpoint_connector.dump_checkpoint()
        return all(_equal(saved[name], self.content[name]) for name in ("state_dict", "optimizer_states", "prott5nv"))

    def attempt(self, kind: str, rng: random.Random, folder: Path) -> tuple[str, str]:
        """Write one file and open it.

        Parameters
        ----------
        kind : {"damaged", "sealed", "crafted"}
        rng : random.Random
        folder : Path
            Empty folder, which stays empty.

        Returns
        -------
        result : str
            How the attempt ended.
        message : str
        """
        path, before = folder / self.path.name, folder / checkpoint_name(1)
        try:
            if kind == "crafted":
                _save(crafted(rng, self.content, folder), path)
            else:
                content = damaged(rng, self.path.read_bytes())
                path.write_bytes(content if kind == "damaged" else sealed(content))
            if kind == "damaged" and path.read_bytes() != self.path.read_bytes():
                before.write_bytes(self.path.read_bytes())
                assert find_checkpoint(folder) == before, "the damage was not noticed"
            return outcome_of(lambda: self.load(path), path)
        finally:
            for each in (path, before):
                each.unlink(missing_ok=True)


def _configuration(folder: Path) -> DictConfig:
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("pretrain", [*_SETTINGS, f"model.data.dataset_path='{folder}'"])
    OmegaConf.resolve(cfg)
    return cfg


def _trained(cfg: DictConfig) -> tuple[pl.Trainer, ProtT5nvModel]:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=cfg.trainer.max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        plugins=[WholeCheckpointIO()],
    )
    model = ProtT5nvModel(cfg.model, trainer)
    trainer.fit(model)
    return trainer, model


def sealed(content: bytes) -> bytes:
    """Correct the checksums of a damaged file: those of the entries of the zip file, and that of the whole file."""
    out = BytesIO()
    try:
        with zipfile.ZipFile(BytesIO(content)) as source, zipfile.ZipFile(out, "w") as target:
            for entry in source.infolist():
                source.NameToInfo[entry.filename].CRC = None  # type: ignore[assignment]  # so that it is not checked
                target.writestr(entry.filename, source.read(entry))
        content = out.getvalue()
    except Exception:  # the damaged file is no zip file any more
        content = content[:-66] + bytes(2)
    return _with_checksum(content)


def _with_checksum(content: bytes) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            _append_checksum(Path(file.name))
        except (AssertionError, OSError):  # it does not end as a zip file
            return content
        return Path(file.name).read_bytes()


class _Code:
    """Creates a file if it is unpickled by Python's own rules."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "code was run"),)


def crafted(rng: random.Random, content: dict[str, Any], folder: Path) -> Any:
    """Change one to three places of a checkpoint's content."""
    # Tensors are not changed in place, so they need no copy.
    content = copy.deepcopy(content, {id(each): each for each in _tensors(content)})
    for _ in range(rng.choice((1, 1, 2, 3))):
        container, key = _place(rng, content)
        match rng.randrange(6):
            case 0 if isinstance(container, dict):
                del container[key]
            case 1 if isinstance(container, dict):
                container[rng.choice(("new", 99, -1, "a/b"))] = container.pop(key)
            case 2 if isinstance(container, list):
                container.append(container[key])
            case _:
                container[key] = _hostile_value(rng, content, container, folder)
    return content


def _hostile_value(rng: random.Random, content: Any, container: Any, folder: Path) -> Any:
    values: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.choice((0, -1, 10**30, 2**63, True, -(2**70))),
        lambda: rng.choice((0.5, float("nan"), float("inf"), 1e300)),
        lambda: rng.choice(("", "x" * 100_000, "${oc.env:HOME}", "../x", "\x1b[2J")),
        lambda: rng.choice(([], {}, (), [[]], {"a": 1})),
        lambda: torch.zeros(rng.choice((0, 1, 7))),
        lambda: torch.zeros(2, 3, dtype=rng.choice((torch.int64, torch.float16, torch.complex64))),
        lambda: _nested(rng.choice((40, 150))),
        lambda: _Code(folder),
        lambda: b"x" * 10,
        lambda: {1, 2},
        lambda: content,
        lambda: [container, container],
        lambda: torch.nn.Linear(1, 1),
    ]
    return rng.choice(values)()


def _place(rng: random.Random, content: Any) -> tuple[Any, Any]:
    """Return a random container within the content, and a key of it."""
    container, keys = content, list(content)
    while True:
        key = rng.choice(keys)
        inner = container[key]
        if not (isinstance(inner, (dict, list)) and inner) or inner is content or rng.random() < 0.2:
            return container, key
        container = inner
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for each in inner for tensor in _tensors(each)]


def _equal(value: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        return isinstance(value, torch.Tensor) and value.dtype == expected.dtype and torch.equal(value, expected)
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(_equal(value[key], expected[key]) for key in expected)
    if isinstance(expected, (list, tuple)):
        return len(value) == len(expected) and all(map(_equal, value, expected))
    return bool(value == expected)


def _save(content: Any, path: Path) -> None:
    torch.save(content, path)
    _append_checksum(path)


def attack_checkpoints(run: Run, kind: str, files: int, seed: int) -> Outcome:
    """Open damaged or hostile checkpoints of one kind.

    Parameters
    ----------
    run : Run
    kind : {"damaged", "sealed", "crafted"}
    files, seed : int
        Number of files, and the seed of the damage.

    Returns
    -------
    Outcome
    """
    assert run.load(run.path), "the undamaged checkpoint does not load"

    def attempt(number: int, folder: Path) -> tuple[str, str]:
        return run.attempt(kind, random.Random(f"{seed} {kind} {number}"), folder)

    return run_attempts(attempt, [f"{kind} file {number}" for number in range(files)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1500, help="Number of files of each kind.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the damage.")
    arguments = parser.parse_args()
    quiet()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)  # PyTorch's threads do not survive the fork
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name))
        outcomes = {kind: attack_checkpoints(run, kind, arguments.files, arguments.seed) for kind in KINDS}
    failed = False
    for kind, outcome in outcomes.items():
        for failure in outcome.failures[:20]:
            print(failure)
        for result in (RIGHT, CHANGED, REFUSED, *FAILURES):
            print(f"{outcome.counts[result]:>8,}  {kind}: {result}")
        print(f"          slowest {outcome.slowest:.2f} s, memory grew by {outcome.peak_mib:,.0f} MiB")
        failed |= bool(outcome.failures) or (kind == "damaged" and outcome.counts[CHANGED] > 0)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
