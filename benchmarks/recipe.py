"""Which recipe learns most: short pretraining runs side by side, and what a finished model knows.

    python benchmarks/recipe.py try --data DIR --steps 300 -o results/recipe   # model=builtin, one line changed
    python benchmarks/recipe.py measure --data DIR a.nemo b.nemo

DIR is what `prott5nv prepare uniref50` wrote. Runs that are there already are kept. All models are asked for the same
residues of the same held-out proteins, 15 % of each, one behind each sentinel, whatever they were trained on.

Printed of each: the perplexity of these residues; the same where every protein's visible residues are shuffled, so that
only its composition can help; and how often a linear model reads from a row of the last encoder layer which residue it
is of. Beside them: what the composition of all proteins, and of each one's visible residues, gives without a model.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from prott5nv import ProtT5, load
from prott5nv.data.dataset import CSVDataset, PretrainingDataset
from prott5nv.model.tokenizer import FIRST_RESIDUE

SCRIPT = Path(__file__).parents[1] / "scripts" / "pretrain.py"
AMINO_ACIDS = 20
PROTEINS = 16  # a step; a recipe with more or fewer takes fewer or more steps
BASE = {"global_batch_size": PROTEINS, "data.num_workers": 0, "optim.lr": 4e-3}
RECIPES: dict[str, dict[str, object]] = {
    "the built-in model's, learning rate 4e-3": {},
    "normal initialization": {"init_method": "normal"},
    "AdamW, learning rate 2e-3": {"optim.name": "fused_adam", "optim.lr": 2e-3},
    "learning rate 2e-3": {"optim.lr": 2e-3},
    "150 steps of warm-up": {"optim.sched.warmup_steps": 150},
    "8 proteins a step": {"global_batch_size": 8, "micro_batch_size": 8},
    "15 % masked": {"data.masked_lm_prob": 0.15},
    "36 % masked, three at a time": {"data.mean_span_length": 3},
    "dropout 0.1": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
    "2 + 1 layers": {"num_layers": 2},
    "4 + 1 layers": {"num_layers": 4},
    "3 + 2 layers": {"decoder_num_layers": 2},
    "width 192": {"hidden_size": 192, "ffn_hidden_size": 768, "num_attention_heads": 6},
}


def pretrain(data: Path, steps: int, name: str, changes: dict[str, object], output: Path) -> Path:
    """Run scripts/pretrain.py, unless it has run."""
    folder = "".join(letter if letter.isalnum() else "_" for letter in name)
    exported = output / folder / f"{folder}.nemo"
    if not exported.is_file():
        recipe = {**BASE, **changes}
        steps = steps * PROTEINS // int(str(recipe["global_batch_size"]))
        settings = [f"model.{key}={value}" for key, value in recipe.items()]
        settings += ["model=builtin", f"name={folder}", f"exp_manager.exp_dir={output}", f"trainer.max_steps={steps}"]
        settings += [f"model.data.dataset_path={data}", "trainer.limit_val_batches=1"]
        subprocess.run([sys.executable, SCRIPT, *settings], check=True)
    return exported


def shuffled(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Visible residues of each protein in another order; sentinels stay."""
    tokens_T, generator = batch["enc_tokens"].clone(), torch.Generator().manual_seed(0)
    for tokens in tokens_T.split(batch["enc_cu_seqlens"].diff().tolist()):
        places = is_amino_acid(tokens).nonzero()[:, 0]
        tokens[places] = tokens[places[torch.randperm(len(places), generator=generator)]]
    return {**batch, "enc_tokens": tokens_T}


def is_amino_acid(tokens: Tensor) -> Tensor:
    return (tokens >= FIRST_RESIDUE) & (tokens < FIRST_RESIDUE + AMINO_ACIDS)


@torch.no_grad()
def perplexity(model: ProtT5, batches: list[dict[str, Tensor]]) -> float:
    losses = []
    for batch in batches:
        hidden_TD = model.encode(batch["enc_tokens"], batch["enc_cu_seqlens"])
        decoded_SD = model.decode(batch["dec_tokens"], batch["dec_cu_seqlens"], hidden_TD, batch["enc_cu_seqlens"])
        losses.append(
            F.cross_entropy(model.logits(decoded_SD), batch["dec_labels"], reduction="none")[batch["residue_mask"]]
        )
    return math.exp(torch.cat(losses).mean())


@torch.no_grad()
def read_residues(model: ProtT5, batch: dict[str, Tensor]) -> float:
    """Accuracy on the second half of a batch of a least-squares classifier of the first."""
    known_T = is_amino_acid(batch["enc_tokens"])
    rows = F.pad(model.encode(batch["enc_tokens"], batch["enc_cu_seqlens"])[known_T], (0, 1), value=1.0)
    residues = batch["enc_tokens"][known_T] - FIRST_RESIDUE
    half = len(rows) // 2
    products = rows[:half].T @ rows[:half] + 1e-2 * torch.eye(rows.shape[1])
    weights = torch.linalg.solve(products, rows[:half].T @ F.one_hot(residues[:half], AMINO_ACIDS).float())
    return float(((rows[half:] @ weights).argmax(1) == residues[half:]).float().mean())


def compositions(batches: list[dict[str, Tensor]]) -> tuple[float, float]:
    """Perplexity by the frequencies of all masked residues, and by each protein's, smoothed as suits best."""
    masked = np.concatenate([batch["dec_labels"][batch["residue_mask"]].numpy() for batch in batches])
    counts = np.bincount(masked, minlength=FIRST_RESIDUE + 25)
    overall = counts / counts.sum()
    proteins = []  # counts of visible residues, and masked ones
    for batch in batches:
        lengths, target_lengths = (batch[f"{side}_cu_seqlens"].diff().tolist() for side in ("enc", "dec"))
        targets = (batch[key].split(target_lengths) for key in ("dec_labels", "residue_mask"))
        for tokens, labels, is_residue in zip(batch["enc_tokens"].split(lengths), *targets, strict=True):
            own = np.bincount(tokens[is_amino_acid(tokens)], minlength=len(overall))
            proteins.append((own, labels[is_residue].numpy()))
    by_protein = []
    for smoothing in (20, 40, 80, 160, 320):
        expected = (((own + smoothing * overall) / (own.sum() + smoothing))[labels] for own, labels in proteins)
        by_protein.append(math.exp(-np.log(np.concatenate(list(expected))).mean()))
    return math.exp(-(overall[overall > 0] * np.log(overall[overall > 0])).sum()), min(by_protein)


def measure(data: Path, files: dict[str, Path], split: str, proteins: int, average: bool = False) -> None:
    held_out = PretrainingDataset(CSVDataset(data, split, "x*"), seed=1234, shuffle=False, micro_batch_size=32)
    batches = held_out.__getitems__(list(range(min(proteins, len(held_out)))))
    overall, own = compositions(batches)
    print("\n| model | perplexity | residues shuffled | residue read from its row |")
    print("|---|---|---|---|")
    print(f"| composition of all proteins | {overall:.2f} | | |")
    print(f"| composition of the protein | {own:.2f} | | |")
    models = {name: load(path).eval() for name, path in files.items()}
    if average:
        mean = AveragedModel(next(iter(models.values())))
        for model in models.values():
            mean.update_parameters(model)
        models["average of their weights"] = mean.module
    for name, model in models.items():
        figures = [perplexity(model, batches), perplexity(model, [shuffled(batch) for batch in batches])]
        print(f"| {name} | {figures[0]:.2f} | {figures[1]:.2f} | {read_residues(model, batches[0]):.0%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trying, measuring = commands.add_parser("try"), commands.add_parser("measure")
    for command in (trying, measuring):
        command.add_argument("--data", type=Path, required=True, help="what prott5nv prepare uniref50 wrote")
        command.add_argument("--split", default="val", choices=["val", "test"], help="proteins to measure with")
        command.add_argument("--proteins", type=int, default=512, help="how many of them")
    trying.add_argument("--steps", type=int, default=300, help=f"of {PROTEINS} proteins each")
    trying.add_argument("-o", "--output", type=Path, default=Path("results/recipe"))
    measuring.add_argument("files", nargs="+", type=Path, metavar="FILE.nemo")
    measuring.add_argument("--average", action="store_true", help="also the mean of the files' weights")
    arguments, overrides = parser.parse_known_args()
    if arguments.command == "measure":
        files = {path.name: path for path in arguments.files}
        measure(arguments.data, files, arguments.split, arguments.proteins, arguments.average)
        return
    more = dict(override.removeprefix("model.").split("=", 1) for override in overrides)
    files = {
        name: pretrain(arguments.data, arguments.steps, name, {**changes, **more}, arguments.output)
        for name, changes in RECIPES.items()
    }
    measure(arguments.data, files, arguments.split, arguments.proteins)


if __name__ == "__main__":
    main()
