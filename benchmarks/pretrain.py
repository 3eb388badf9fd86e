"""Measure the speed of pretraining, beside Hugging Face's T5 of the same size on the same proteins.

    python benchmarks/pretrain.py                                    # the full-size model, generated proteins
    python benchmarks/pretrain.py --data DIR --preset small --proteins 32
    python benchmarks/pretrain.py --proteins 672 --compile --no-peer --steps 20 --warm-up 10       # on a GPU
    python benchmarks/pretrain.py --preset builtin model.hidden_size=384 model.ffn_hidden_size=1536

DIR is the folder that ``prott5nv prepare uniref50`` wrote. All models train with gradient clipping and in bf16 autocast
(fp32 on hardware without bf16 instructions). ``ProtT5nvModel`` runs under Lightning as in pretraining, with the
settings of the preset and without padding; NAME=VALUE changes a setting. Hugging Face's T5 trains with fused AdamW. Its
batches are padded in two ways: to their longest protein, and to 512 + 256 tokens, as in BioNeMo v1.

Residues per second count real residues, not padding or filler. "Of peak" is the fraction of the matmul rate that was
measured in the same run and data type. The models take turns at every step, so that other programs slow down all of
them, and the clock is read after the GPU has finished. Medians are printed. The rate of one loader worker follows, and
the time that the recipe of the original ProtT5nv would take.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from common import argument_parser, describe_machine, print_table
from data import write_csv
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch.nn.functional import pad
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from prott5nv import ModelConfig, ProtT5nvError
from prott5nv.assets import config_folder
from prott5nv.cli.hydra_app import quiet
from prott5nv.data.micro_batch import MicroBatch
from prott5nv.model.device import choose_hardware
from prott5nv.model.tokenizer import BOS, EOS, PAD
from prott5nv.pretraining.config import architecture, as_dict
from prott5nv.pretraining.flops import matmul_peak, training_flops
from prott5nv.pretraining.loader import split_dataset, step_loader
from prott5nv.pretraining.megatron import initialize_parallel
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.presets import register
from prott5nv.pretraining.trainer import build_trainer

ENCODER_LENGTH, DECODER_LENGTH = 512, 256  # what BioNeMo v1 padded to
IGNORED = -100  # label that PyTorch's cross-entropy leaves out
RECIPE_RESIDUES, RECIPE_GPU_HOURS = 654e9, 26_880  # of the original ProtT5nv
GENERATED_RECORDS = 20_000
OURS = "prott5nv"
PADDINGS = {"Hugging Face, padded to the longest": False, "Hugging Face, padded to 512 + 256": True}


class HuggingFace:
    """T5ForConditionalGeneration of the same width and depth, and its optimizer."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype, micro_batch_size: int):
        from transformers import T5Config, T5ForConditionalGeneration

        shape = T5Config(
            vocab_size=config.padded_vocab_size,
            d_model=config.hidden_size,
            d_kv=config.hidden_size // config.num_attention_heads,
            d_ff=config.ffn_hidden_size,
            num_layers=config.num_layers,
            num_decoder_layers=config.decoder_num_layers,
            num_heads=config.num_attention_heads,
            dropout_rate=config.hidden_dropout,
            feed_forward_proj="gelu",
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=BOS,
        )
        self.model = T5ForConditionalGeneration(shape).train().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.micro_batch_size, self.device, self.dtype = micro_batch_size, device, dtype

    def step(self, encoder: list[torch.Tensor], decoder: list[torch.Tensor], pad_to_limit: bool) -> None:
        """Take one optimizer step on a list of encoder inputs and decoder targets, one of each per protein."""
        targets = sum(map(len, decoder))
        for first in range(0, len(encoder), self.micro_batch_size):
            micro_batch = slice(first, first + self.micro_batch_size)
            tokens = pad_sequence(encoder[micro_batch], batch_first=True, padding_value=PAD)
            labels = pad_sequence(decoder[micro_batch], batch_first=True, padding_value=IGNORED)
            if pad_to_limit:
                tokens = pad(tokens, (0, ENCODER_LENGTH - tokens.shape[1]), value=PAD)
                labels = pad(labels, (0, DECODER_LENGTH - labels.shape[1]), value=IGNORED)
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
                mean = self.model(input_ids=tokens, attention_mask=tokens != PAD, labels=labels).loss
            (mean * (labels != IGNORED).sum() / targets).backward()
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class StepTimer(pl.Callback):
    """Times our steps, and runs and times the other model's steps, if there is one, on the same proteins in between."""

    def __init__(self, config: ModelConfig, other: HuggingFace | None, warm_up: int):
        self.config, self.other, self.warm_up = config, other, warm_up
        self.seconds: dict[str, list[float]] = {name: [] for name in (OURS, *(PADDINGS if other else ()))}
        self.memory = 0
        self.residues: list[int] = []
        self.flops: list[float] = []

    def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
        self.began = synchronized_time(model.device)

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        seconds = {OURS: synchronized_time(model.device) - self.began}
        if model.device.type == "cuda" and batch_idx == 0:
            self.memory = torch.cuda.max_memory_allocated()  # before the other model's first step
        encoder, decoder = split(batch, "enc_tokens", 0), split(batch, "dec_labels", 1)
        if self.other:
            for name, pad_to_limit in PADDINGS.items():
                began = synchronized_time(model.device)
                self.other.step(encoder, decoder, pad_to_limit)
                seconds[name] = synchronized_time(model.device) - began
        if batch_idx < self.warm_up:
            return
        for name, measured in seconds.items():
            self.seconds[name].append(measured)
        encoder_lengths, decoder_lengths = [len(tokens) for tokens in encoder], [len(tokens) for tokens in decoder]
        self.residues.append(sum(encoder_lengths))
        self.flops.append(training_flops(self.config, encoder_lengths, decoder_lengths))


def split(micro_batches: list[MicroBatch], name: str, column: int) -> list[torch.Tensor]:
    """Split the packed tokens of all micro-batches into one tensor per protein, without filler."""
    parts: list[torch.Tensor] = []
    for batch in micro_batches:
        lengths = batch["lengths"][:, column].tolist()
        tokens: torch.Tensor = batch[name]  # type: ignore[literal-required]
        parts += tokens[: sum(lengths)].split(lengths)
    return parts


def synchronized_time(device: torch.device) -> float:
    """Read the clock once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def compose_config(preset: str, data: Path, max_steps: int, proteins: int, overrides: Sequence[str]) -> DictConfig:
    """The settings of a pretraining run that neither validates nor shows a progress bar."""
    settings = [
        f"model={preset}",
        f"model.data.dataset_path={data}",
        f"model.global_batch_size={proteins}",
        f"trainer.max_steps={max_steps}",
        "trainer.limit_val_batches=0",
        "trainer.enable_progress_bar=false",
        *overrides,
    ]
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("pretrain", settings)
    OmegaConf.resolve(cfg)
    return cfg


def measure_loader(cfg: DictConfig, config: ModelConfig, steps: int) -> float:
    """Residues per second that one worker process prepares."""
    initialize_parallel()
    samples = split_dataset(cfg.model, config, "train", shuffle=True, random_crop=False)
    batches = iter(step_loader(samples, 2688, num_workers=1, device=torch.device("cpu")))
    next(batches)  # the start of the worker process is not measured
    residues, start = 0, time.perf_counter()
    for step in islice(batches, steps):
        if isinstance(step, ProtT5nvError):
            raise step
        residues += sum(int(part["lengths"][:, 0].sum()) for part in step)
    return residues / (time.perf_counter() - start)


def report(name: str, timer: StepTimer, peak: float) -> float:
    """Print a table of all models, and return our residues per second."""
    medians = {
        model: statistics.median(r / s for r, s in zip(timer.residues, seconds, strict=True))
        for model, seconds in timer.seconds.items()
    }
    rows = []
    for model, seconds in timer.seconds.items():
        rate = statistics.median(f / s for f, s in zip(timer.flops, seconds, strict=True))
        values = f"{medians[model]:,.0f}", f"{rate / 1e12:.2f}", f"{rate / peak:.0%}"
        speed_up = f"{medians[OURS] / medians[model]:.2f}x"
        rows.append((f"{model}: {name}", *values, f"{1e3 * statistics.median(seconds):,.0f}", speed_up))
    print_table(("Training", "Residues/s", "TFLOP/s", "Of peak", "ms per step", "Speed-up of prott5nv"), rows)
    return medians[OURS]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="Folder that prott5nv prepare uniref50 wrote.")
    parser.add_argument("--preset", default="prott5nv", choices=ModelConfig.preset_names(), help="Size of the models.")
    parser.add_argument("--proteins", type=int, default=4, help="Number of proteins in a step.")
    parser.add_argument("--peer-batch-size", type=int, default=64, help="Proteins in a micro-batch of the other model.")
    parser.add_argument("--steps", type=int, default=5, help="Number of measured steps.")
    parser.add_argument("--warm-up", type=int, default=2, help="Number of steps before them that are not measured.")
    parser.add_argument("--no-peer", action="store_true", help="Leave out Hugging Face's model.")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="Compile our layers. Hugging Face's would be compiled again for every length.",
    )
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="Settings of pretraining.")
    arguments = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            data = Path(folder)
            write_csv(data / "train", GENERATED_RECORDS)
        measure(arguments, data)


def measure(arguments: Any, data: Path) -> None:
    """Run and print all measurements."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = choose_hardware(str(device)).precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    overrides = [f"trainer.precision={'bf16-mixed' if bf16 else '32'}", f"trainer.compile={arguments.compile}"]
    overrides += arguments.settings
    steps = arguments.warm_up + arguments.steps
    cfg = compose_config(arguments.preset, data, steps, arguments.proteins, overrides)
    config = architecture(as_dict(cfg.model))

    peak = matmul_peak(device, dtype)
    other = None if arguments.no_peer else HuggingFace(config, device, dtype, arguments.peer_batch_size)
    timer = StepTimer(config, other, arguments.warm_up)
    trainer = build_trainer(cfg)
    trainer.callbacks.append(timer)
    trainer.fit(ProtT5nvModel(cfg.model, trainer))

    print(f"{describe_machine(device)}; matmul rate in {'bf16' if bf16 else 'fp32'}: {peak / 1e12:.2f} TFLOP/s")
    compiled = ", compiled" if arguments.compile else ""
    name = f"{config.num_parameters:,} parameters, {arguments.proteins} proteins a step{compiled}"
    rate = report(name, timer, peak)
    if timer.memory:
        print(f"memory of the GPU in the first step: {timer.memory / 1e9:.0f} GB")
    workers = measure_loader(cfg, config, steps=20)
    print(f"one loader worker: {workers:,.0f} residues/s")
    hours = RECIPE_RESIDUES / rate / 3600
    print(
        f"all {RECIPE_RESIDUES / 1e9:.0f}G residues of the recipe: {hours:,.0f} hours (original: {RECIPE_GPU_HOURS:,})"
    )


if __name__ == "__main__":
    main()
