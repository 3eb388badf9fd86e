"""A training step of ours and of Hugging Face's T5 of the same size, on the same proteins.

    python benchmarks/pretrain.py --data DIR                          # the full-size model
    python benchmarks/pretrain.py --data DIR --preset small --proteins 32
    python benchmarks/pretrain.py --data DIR --proteins 512 --micro-batch-size 64 --compile   # on a GPU

DIR is what `prott5nv prepare uniref50` wrote. All train in bf16 autocast with fused AdamW, gradient clipping and
dropout 0.1. Ours is `ProtT5nvModel` under Lightning as scripts/pretrain.py runs it, nothing padded; Hugging Face's
batches are padded to their longest protein and, as upstream did, to 512 + 256. Residues are those of the proteins,
padding never counts. Steps of the three take turns, so that a busy machine is busy for all; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.nn.functional import pad
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from prott5nv import ModelConfig
from prott5nv.cli.hydra_app import config_folder, quiet, register_presets
from prott5nv.model.tokenizer import BOS, EOS, PAD
from prott5nv.pretraining.flops import matmul_peak, training_flops
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.trainer import build_trainer

ENCODER, DECODER = 512, 256  # what upstream padded to
PADDINGS = {"Hugging Face, padded to the longest": False, "Hugging Face, padded to 512 + 256": True}


class HuggingFace:
    """T5ForConditionalGeneration of the same width and depth."""

    def __init__(self, config: ModelConfig, device: torch.device, micro_batch_size: int, compiled: bool):
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
        self.micro_batch_size, self.device = micro_batch_size, device

    def step(self, encoder: list[torch.Tensor], decoder: list[torch.Tensor], full: bool) -> None:
        targets = sum(map(len, decoder))
        for first in range(0, len(encoder), self.micro_batch_size):
            part = slice(first, first + self.micro_batch_size)
            tokens = pad_sequence(encoder[part], batch_first=True, padding_value=PAD)
            labels = pad_sequence(decoder[part], batch_first=True, padding_value=-100)
            if full:
                tokens = pad(tokens, (0, ENCODER - tokens.shape[1]), value=PAD)
                labels = pad(labels, (0, DECODER - labels.shape[1]), value=-100)
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                mean = self.forward(input_ids=tokens, attention_mask=tokens != PAD, labels=labels).loss
            (mean * (labels != -100).sum() / targets).backward()
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Steps(pl.Callback):
    """Times our steps, and lets the other model take its own on the same proteins in between."""

    def __init__(self, config: ModelConfig, other: HuggingFace, warm_up: int):
        self.config, self.other, self.warm_up = config, other, warm_up
        self.seconds = {name: [] for name in ("ours", *PADDINGS)}
        self.residues, self.flops = [], []

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        self.began = now(model.device)

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        took = {"ours": now(model.device) - self.began}
        encoder = [part for b in batch for part in b["enc_tokens"].split(b["enc_cu_seqlens"].diff().tolist())]
        decoder = [part for b in batch for part in b["dec_labels"].split(b["dec_cu_seqlens"].diff().tolist())]
        for name, full in PADDINGS.items():
            began = now(model.device)
            self.other.step(encoder, decoder, full)
            took[name] = now(model.device) - began
        if batch_idx >= self.warm_up:
            for name, seconds in took.items():
                self.seconds[name].append(seconds)
            lengths = [len(tokens) for tokens in encoder], [len(tokens) for tokens in decoder]
            self.residues.append(sum(lengths[0]))
            self.flops.append(training_flops(self.config, *lengths))


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--preset", default="prott5nv", choices=ModelConfig.preset_names())
    parser.add_argument("--proteins", type=int, default=4, help="in a step")
    parser.add_argument("--micro-batch-size", type=int, help="proteins at once; all by default")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    warm_up = 2
    quiet()
    register_presets()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("pretrain", [f"model={arguments.preset}", f"model.data.dataset_path={arguments.data}"])
    cfg.trainer.max_steps = warm_up + arguments.steps
    cfg.trainer.precision = "bf16-mixed"
    cfg.trainer.limit_val_batches = 0
    cfg.trainer.enable_progress_bar = False
    cfg.model.global_batch_size = arguments.proteins
    cfg.model.micro_batch_size = arguments.micro_batch_size or arguments.proteins
    cfg.model.data.num_workers = 0
    OmegaConf.resolve(cfg)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = matmul_peak(device, torch.bfloat16)
    config = ModelConfig.preset(arguments.preset)
    other = HuggingFace(config, device, cfg.model.micro_batch_size, arguments.compile)
    steps = Steps(config, other, warm_up)
    trainer = build_trainer(cfg)
    trainer.callbacks.append(steps)
    model = ProtT5nvModel(cfg.model, trainer)
    if arguments.compile:
        model.configure_model()
        model.megatron.compile()
    trainer.fit(model)

    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{arguments.preset} ({config.num_parameters:,} parameters), {arguments.proteins} proteins a step, {hardware}"
    )
    print(f"matrix product in bf16: {peak / 1e12:.2f} TFLOP/s")
    print(f"{'':38}{'residues/s':>12}{'TFLOP/s':>9}{'of peak':>9}{'ours is':>9}")
    medians = {}
    for name, seconds in steps.seconds.items():
        medians[name] = statistics.median(r / s for r, s in zip(steps.residues, seconds, strict=True))
        rate = statistics.median(f / s for f, s in zip(steps.flops, seconds, strict=True))
        times = medians["ours"] / medians[name]
        print(f"{name:38}{medians[name]:12,.0f}{rate / 1e12:9.2f}{rate / peak:9.0%}{times:8.2f}x")


if __name__ == "__main__":
    main()
