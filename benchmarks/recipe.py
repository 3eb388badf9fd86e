"""Compare pretraining recipes by short runs, and measure what a pretrained model has learned.

    python benchmarks/recipe.py try --data DIR --steps 300 -o results/recipe
    python benchmarks/recipe.py measure --data DIR a.nemo b.nemo

DIR is the folder that ``prott5nv prepare uniref50`` wrote. ``try`` pretrains one model per recipe and measures them.
The first recipe is that of an earlier built-in model, with another learning rate and batch size; the
others change a few settings of it. Arguments that this script does not know, such as ``model.seed=2``, are passed on
as settings. Finished runs are kept. ``measure`` takes models that exist already.

All models predict the same masked residues of the same held-out proteins, 15 % of each, even if they were trained with
another fraction.
The table has these figures for each model:

- the perplexity of the masked residues;
- the same for each quarter of the proteins, from the best predicted to the worst;
- the same after the visible residues of each protein were shuffled, so that only its composition can help;
- the accuracy of a linear classifier that predicts each residue from its row of the last encoder layer.

The first two rows need no model: the perplexity of the composition of all proteins, and of that of each protein's
visible residues.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import argument_parser, print_table
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from prott5nv import ProtT5
from prott5nv.checkpoint.reader import load
from prott5nv.data.dataset import PretrainingDataset
from prott5nv.data.memmap import CSVDataset
from prott5nv.data.micro_batch import MicroBatch
from prott5nv.model.tokenizer import FIRST_RESIDUE

AMINO_ACIDS = 20
PROTEINS = 16  # per step; a recipe with more or fewer takes fewer or more steps
BASE = {
    "num_layers": 3,
    "hidden_size": 256,
    "ffn_hidden_size": 1024,
    "num_attention_heads": 8,
    "init_method_std": 0.06,
    "global_batch_size": PROTEINS,
    "data.num_workers": 0,
    "optim.lr": 4e-3,
    "optim.sched.warmup_steps": 50,
}
RECIPES: dict[str, dict[str, object]] = {
    "the earlier built-in model's, 3 + 1 layers of width 256, learning rate 4e-3": {},
    "normal initialization": {"init_method": "normal"},
    "AdamW, learning rate 2e-3": {"optim.name": "fused_adam", "optim.lr": 2e-3},
    "learning rate 2e-3": {"optim.lr": 2e-3},
    "150 steps of warm-up": {"optim.sched.warmup_steps": 150},
    "8 proteins per step": {"global_batch_size": 8, "micro_batch_size": 8},
    "15 % masked": {"data.masked_lm_prob": 0.15},
    "36 % masked, in spans of three": {"data.mean_span_length": 3},
    "dropout 0.1": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
    "2 + 1 layers": {"num_layers": 2},
    "4 + 1 layers": {"num_layers": 4},
    "3 + 2 layers": {"decoder_num_layers": 2},
    "width 192": {"hidden_size": 192, "ffn_hidden_size": 768, "num_attention_heads": 6},
}


def pretrain(data: Path, steps: int, name: str, changes: dict[str, object], output: Path) -> Path:
    """Pretrain by one recipe, unless its model exists already, and return the model's path."""
    folder = "".join(letter if letter.isalnum() else "_" for letter in name)
    exported = output / folder / f"{folder}.nemo"
    if not exported.is_file():
        recipe = {**BASE, **changes}
        steps = steps * PROTEINS // int(str(recipe["global_batch_size"]))
        settings = [f"model.{key}={value}" for key, value in recipe.items()]
        settings += ["model=builtin", f"name={folder}", f"exp_manager.exp_dir={output}", f"trainer.max_steps={steps}"]
        settings += [f"model.data.dataset_path={data}", "trainer.limit_val_batches=1"]
        subprocess.run([sys.executable, "-m", "prott5nv", "pretrain", *settings], check=True)
    return exported


def is_amino_acid(tokens_T: Tensor) -> Tensor:
    """True where a token is one of the 20 amino acids."""
    return (tokens_T >= FIRST_RESIDUE) & (tokens_T < FIRST_RESIDUE + AMINO_ACIDS)


def shuffle_residues(batch: MicroBatch) -> MicroBatch:
    """Shuffle the visible residues of each protein; sentinels keep their positions."""
    tokens_T, generator = batch["enc_tokens"].clone(), torch.Generator().manual_seed(0)
    for tokens in tokens_T.split(batch["enc_cu_seqlens"].diff().tolist()):
        positions = is_amino_acid(tokens).nonzero()[:, 0]
        tokens[positions] = tokens[positions[torch.randperm(len(positions), generator=generator)]]
    return {**batch, "enc_tokens": tokens_T}


@torch.no_grad()
def losses_by_protein(model: ProtT5, batches: list[MicroBatch]) -> list[Tensor]:
    """Cross entropy of each masked residue, for each protein."""
    losses: list[Tensor] = []
    for batch in batches:
        hidden_TD = model.encode(batch["enc_tokens"], batch["enc_cu_seqlens"])
        decoded_SD = model.decode(batch["dec_tokens"], batch["dec_cu_seqlens"], hidden_TD, batch["enc_cu_seqlens"])
        losses_S = F.cross_entropy(model.logits(decoded_SD), batch["dec_labels"], reduction="none")
        parts = (values.split(batch["dec_cu_seqlens"].diff().tolist()) for values in (losses_S, batch["residue_mask"]))
        losses += [values[is_residue] for values, is_residue in zip(*parts, strict=True)]
    return losses


def perplexity(losses: list[Tensor]) -> float:
    """Perplexity of the masked residues of some proteins."""
    return math.exp(torch.cat(losses).mean())


def perplexity_by_quarter(losses: list[Tensor]) -> str:
    """Perplexities of the quarters of the proteins, the best predicted ones first."""
    ordered = sorted((each for each in losses if len(each)), key=lambda each: float(each.mean()))
    ends = [len(ordered) * quarter // 4 for quarter in range(5)]
    return ", ".join(f"{perplexity(ordered[start:end]):.1f}" for start, end in pairwise(ends))


@torch.no_grad()
def residue_accuracy(model: ProtT5, batch: MicroBatch) -> float:
    """Fit a least-squares classifier of residues on half of a batch's rows; return its accuracy on the other half."""
    visible_T = is_amino_acid(batch["enc_tokens"])
    rows = F.pad(model.encode(batch["enc_tokens"], batch["enc_cu_seqlens"])[visible_T], (0, 1), value=1.0)
    residues = batch["enc_tokens"][visible_T] - FIRST_RESIDUE
    half = len(rows) // 2
    gram = rows[:half].T @ rows[:half] + 1e-2 * torch.eye(rows.shape[1])
    weights = torch.linalg.solve(gram, rows[:half].T @ F.one_hot(residues[:half], AMINO_ACIDS).float())
    return float(((rows[half:] @ weights).argmax(1) == residues[half:]).float().mean())


def composition_perplexities(batches: list[MicroBatch]) -> tuple[float, float]:
    """Perplexity of the masked residues by residue frequencies alone.

    Parameters
    ----------
    batches : list of dict
        Micro-batches of `PretrainingDataset`.

    Returns
    -------
    overall : float
        By the frequencies of all masked residues.
    by_protein : float
        By the frequencies of each protein's visible residues, smoothed with the overall ones. The best of several
        strengths of smoothing counts.
    """
    masked = np.concatenate([batch["dec_labels"][batch["residue_mask"]].numpy() for batch in batches])
    counts = np.bincount(masked, minlength=FIRST_RESIDUE + 25)
    overall = counts / counts.sum()
    proteins = []  # pairs of the counts of the visible residues and the masked residues
    for batch in batches:
        lengths, target_lengths = batch["lengths"].T.tolist()
        targets = (values.split(target_lengths) for values in (batch["dec_labels"], batch["residue_mask"]))
        for tokens, labels, is_residue in zip(batch["enc_tokens"].split(lengths), *targets, strict=True):
            visible = np.bincount(tokens[is_amino_acid(tokens)], minlength=len(overall))
            proteins.append((visible, labels[is_residue].numpy()))
    by_protein = []
    for smoothing in (20, 40, 80, 160, 320):
        expected = [
            ((visible + smoothing * overall) / (visible.sum() + smoothing))[labels] for visible, labels in proteins
        ]
        by_protein.append(math.exp(-np.log(np.concatenate(expected)).mean()))
    return math.exp(-(overall[overall > 0] * np.log(overall[overall > 0])).sum()), min(by_protein)


def average_weights(models: Sequence[ProtT5]) -> ProtT5:
    """Build a model with the mean of the models' weights."""
    mean = AveragedModel(models[0])
    for model in models:
        mean.update_parameters(model)
    assert isinstance(mean.module, ProtT5)
    return mean.module


def measure(data: Path, files: dict[str, Path], split: str, proteins: int, average: bool = False) -> None:
    """Print the table of the models in `files`, which has a name for each."""
    held_out = PretrainingDataset(CSVDataset(data, split, "x*"), seed=1234, shuffle=False, micro_batch_size=32)
    batches = held_out.__getitems__(list(range(min(proteins, len(held_out)))))
    models = {name: load(path).eval() for name, path in files.items()}
    if average:
        models["average of their weights"] = average_weights(list(models.values()))

    def rows() -> Iterator[Sequence[str]]:
        overall, by_protein = composition_perplexities(batches)
        yield "composition of all proteins", f"{overall:.2f}", "", "", ""
        yield "composition of the protein", f"{by_protein:.2f}", "", "", ""
        shuffled = [shuffle_residues(batch) for batch in batches]
        for name, model in models.items():
            losses, without_order = losses_by_protein(model, batches), losses_by_protein(model, shuffled)
            figures = f"{perplexity(losses):.2f}", perplexity_by_quarter(losses), f"{perplexity(without_order):.2f}"
            yield name, *figures, f"{residue_accuracy(model, batches[0]):.0%}"

    columns = ("by quarter of the proteins", "perplexity, residues shuffled", "residue predicted from its row")
    print()
    print_table(("model", "perplexity", *columns), rows())


def main() -> None:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    try_command = commands.add_parser("try", help="Pretrain by each recipe and measure the models.")
    measure_command = commands.add_parser("measure", help="Measure existing models.")
    for command in (try_command, measure_command):
        command.add_argument("--data", type=Path, required=True, help="Folder that prott5nv prepare uniref50 wrote.")
        command.add_argument("--split", default="val", choices=["val", "test"], help="Held-out proteins to predict.")
        command.add_argument("--proteins", type=int, default=512, help="Number of held-out proteins.")
    try_command.add_argument("--steps", type=int, default=300, help=f"Number of steps, of {PROTEINS} proteins each.")
    try_command.add_argument("-o", "--output", type=Path, default=Path("results/recipe"), help="Folder for the runs.")
    measure_command.add_argument("files", nargs="+", type=Path, metavar="FILE.nemo", help="Models to measure.")
    measure_command.add_argument("--average", action="store_true", help="Also measure the mean of the files' weights.")
    arguments, overrides = parser.parse_known_args()
    if arguments.command == "measure":
        if overrides:
            parser.error(f"unrecognized arguments: {' '.join(overrides)}")
        files = {path.name: path for path in arguments.files}
        measure(arguments.data, files, arguments.split, arguments.proteins, arguments.average)
        return
    settings = dict(override.removeprefix("model.").split("=", 1) for override in overrides)
    files = {
        name: pretrain(arguments.data, arguments.steps, name, {**changes, **settings}, arguments.output)
        for name, changes in RECIPES.items()
    }
    measure(arguments.data, files, arguments.split, arguments.proteins)


if __name__ == "__main__":
    main()
