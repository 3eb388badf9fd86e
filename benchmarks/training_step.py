"""Measure the speed of a training step, beside Hugging Face's T5 of the same size on the same proteins.

    python benchmarks/training_step.py --data DIR                          # the full-size model
    python benchmarks/training_step.py --data DIR --preset small --proteins 32
    python benchmarks/training_step.py --data DIR --proteins 512 --micro-batch-size 64 --compile   # on a GPU

DIR is the folder that ``prott5nv prepare uniref50`` wrote. All models train with fused AdamW, gradient clipping, the
dropout of the preset, and bf16 autocast (fp32 on hardware without bf16 instructions). ``ProtT5nvModel`` runs under
Lightning as in pretraining, without padding. Hugging Face's batches are padded in two ways: to their longest protein,
and to 512 + 256 tokens, as in BioNeMo v1.

Residues per second count real residues, not padding. "Of peak" is the fraction of the matmul rate that was measured in
the same run and data type. The models take turns at every step, so that other programs slow down all of them. Medians
are printed.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import lightning.pytorch as pl
import torch
from common import argument_parser, describe_machine
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch.nn.functional import pad
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from prott5nv import ModelConfig
from prott5nv.cli.hydra_app import config_folder, quiet
from prott5nv.model.device import choose_hardware
from prott5nv.model.tokenizer import BOS, EOS, PAD
from prott5nv.pretraining.config import register
from prott5nv.pretraining.flops import matmul_peak, training_flops
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.trainer import build_trainer

ENCODER_LENGTH, DECODER_LENGTH = 512, 256  # what BioNeMo v1 padded to
IGNORED = -100  # label that PyTorch's cross-entropy leaves out
WARM_UP = 2  # steps that are not measured
OURS = "prott5nv"
PADDINGS = {"Hugging Face, padded to the longest": False, "Hugging Face, padded to 512 + 256": True}


class HuggingFace:
    """T5ForConditionalGeneration of the same width and depth, and its optimizer."""

    def __init__(
        self, config: ModelConfig, device: torch.device, dtype: torch.dtype, micro_batch_size: int, compiled: bool
    ):
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
        self.forward = torch.compile(self.model) if compiled else self.model
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
                mean = self.forward(input_ids=tokens, attention_mask=tokens != PAD, labels=labels).loss
            (mean * (labels != IGNORED).sum() / targets).backward()
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class StepTimer(pl.Callback):
    """Times our steps, and runs and times the other model's steps on the same proteins in between."""

    def __init__(self, config: ModelConfig, other: HuggingFace):
        self.config, self.other = config, other
        self.seconds: dict[str, list[float]] = {name: [] for name in (OURS, *PADDINGS)}
        self.residues: list[int] = []
        self.flops: list[float] = []

    def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
        self.began = synchronized_time(model.device)

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        seconds = {OURS: synchronized_time(model.device) - self.began}
        encoder = split(batch, "enc_tokens", "enc_cu_seqlens")
        decoder = split(batch, "dec_labels", "dec_cu_seqlens")
        for name, pad_to_limit in PADDINGS.items():
            began = synchronized_time(model.device)
            self.other.step(encoder, decoder, pad_to_limit)
            seconds[name] = synchronized_time(model.device) - began
        if batch_idx < WARM_UP:
            return
        for name, measured in seconds.items():
            self.seconds[name].append(measured)
        encoder_lengths, decoder_lengths = [len(tokens) for tokens in encoder], [len(tokens) for tokens in decoder]
        self.residues.append(sum(encoder_lengths))
        self.flops.append(training_flops(self.config, encoder_lengths, decoder_lengths))


def split(micro_batches: list[dict[str, torch.Tensor]], tokens: str, cu_seqlens: str) -> list[torch.Tensor]:
    """Split the packed tokens of all micro-batches into one tensor per protein."""
    return [part for batch in micro_batches for part in batch[tokens].split(batch[cu_seqlens].diff().tolist())]


def synchronized_time(device: torch.device) -> float:
    """Read the clock once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def compose_config(
    preset: str, data: str, dtype: torch.dtype, steps: int, proteins: int, micro_batch_size: int
) -> DictConfig:
    """The settings of a pretraining run that neither validates nor shows a progress bar."""
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("pretrain", [f"model={preset}", f"model.data.dataset_path={data}"])
    cfg.trainer.max_steps = WARM_UP + steps
    cfg.trainer.precision = "32" if dtype == torch.float32 else "bf16-mixed"
    cfg.trainer.limit_val_batches = 0
    cfg.trainer.enable_progress_bar = False
    cfg.model.global_batch_size = proteins
    cfg.model.micro_batch_size = micro_batch_size
    cfg.model.data.num_workers = 0
    OmegaConf.resolve(cfg)
    return cfg


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="Folder that prott5nv prepare uniref50 wrote.")
    parser.add_argument("--preset", default="prott5nv", choices=ModelConfig.preset_names(), help="Size of the models.")
    parser.add_argument("--proteins", type=int, default=4, help="Number of proteins in a step.")
    parser.add_argument("--micro-batch-size", type=int, help="Number of proteins in a micro-batch. The default is all.")
    parser.add_argument("--steps", type=int, default=5, help=f"Number of measured steps, after {WARM_UP} of warm-up.")
    parser.add_argument("--compile", action="store_true", help="Compile the models with torch.compile.")
    arguments = parser.parse_args()
    quiet()
    micro_batch_size = arguments.micro_batch_size or arguments.proteins
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = choose_hardware(str(device)).precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    cfg = compose_config(arguments.preset, arguments.data, dtype, arguments.steps, arguments.proteins, micro_batch_size)

    peak = matmul_peak(device, dtype)
    config = ModelConfig.preset(arguments.preset)
    timer = StepTimer(config, HuggingFace(config, device, dtype, micro_batch_size, arguments.compile))
    trainer = build_trainer(cfg)
    trainer.callbacks.append(timer)
    model = ProtT5nvModel(cfg.model, trainer)
    if arguments.compile:
        model.configure_model()
        assert model.megatron is not None
        model.megatron.compile()
    trainer.fit(model)

    parameters = f"{config.num_parameters:,} parameters"
    print(f"{arguments.preset} ({parameters}), {arguments.proteins} proteins per step, {describe_machine(device)}")
    print(f"matmul rate in {'bf16' if bf16 else 'fp32'}: {peak / 1e12:.2f} TFLOP/s")
    print(f"{'':38}{'residues/s':>12}{'TFLOP/s':>9}{'of peak':>9}{'speed-up':>9}")
    medians: dict[str, float] = {}
    for name, seconds in timer.seconds.items():
        medians[name] = statistics.median(r / s for r, s in zip(timer.residues, seconds, strict=True))
        rate = statistics.median(f / s for f, s in zip(timer.flops, seconds, strict=True))
        speed_up = medians[OURS] / medians[name]
        print(f"{name:38}{medians[name]:12,.0f}{rate / 1e12:9.2f}{rate / peak:9.0%}{speed_up:8.2f}x")


if __name__ == "__main__":
    main()
