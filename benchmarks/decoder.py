"""What the decoder is worth, and what it costs.

    python benchmarks/decoder.py gb1 FLIP/gb1/two_vs_rest.csv.gz                       # the built-in model
    python benchmarks/decoder.py gb1 FLIP/gb1/two_vs_rest.csv.gz --model prott5nv.nemo
    python benchmarks/decoder.py speed

`gb1` scores variants of the GB1 domain without training on them (Wu et al. 2016, as FLIP ships them: residues 39, 40,
41 and 54) and prints Spearman's correlation with the measured fitness, with 95 % intervals from a bootstrap over
variants, beside what needs no language model. `speed` times every single substitution of a random protein.

Shapes: P variants.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from embed import matmul_rate, seconds

from prott5nv import ModelConfig, ProtT5, ProtT5nvInference, score_variants
from prott5nv.decoding.masking import AMINO_ACIDS
from prott5nv.decoding.variants import Variant
from prott5nv.flip.metrics import evaluate
from prott5nv.flip.tasks import Task, load_task

SITES, WILD_TYPE = (39, 40, 41, 54), "VDGV"

# Rows of BLOSUM62 (Henikoff and Henikoff 1992) for the residues that GB1 has at these sites.
BLOSUM62 = {
    wild: dict(zip("ARNDCQEGHILKMFPSTWYV", scores, strict=True))
    for wild, scores in {
        "V": (0, -3, -3, -3, -1, -2, -2, -3, -3, 3, 1, -2, 1, -1, -2, -2, 0, -3, -1, 4),
        "D": (-2, -2, 1, 6, -3, 0, 2, -1, -1, -3, -4, -1, -3, -3, -1, 0, -1, -4, -3, -3),
        "G": (0, -2, 0, -1, -3, -2, -2, 6, -2, -4, -4, -2, -3, -3, -2, 0, -2, -2, -3, -3),
    }.items()
}
# Per cent of Swiss-Prot's residues, from its release statistics.
COMPOSITION = {
    **{"A": 8.25, "R": 5.53, "N": 4.06, "D": 5.46, "C": 1.38, "Q": 3.93, "E": 6.72, "G": 7.07, "H": 2.27, "I": 5.91},
    **{"L": 9.65, "K": 5.80, "M": 2.41, "F": 3.86, "P": 4.74, "S": 6.64, "T": 5.35, "W": 1.10, "Y": 2.92, "V": 6.86},
}


def variants_of(task: Task) -> tuple[str, list[Variant], np.ndarray]:
    """The wild type, what each other protein changes in it, and the numbers of these proteins."""
    [wild_type] = [s for s in task.sequences if all(s[site - 1] == w for site, w in zip(SITES, WILD_TYPE, strict=True))]
    variants, indices = [], []
    for index, sequence in enumerate(task.sequences):
        places = tuple(place for place, pair in enumerate(zip(wild_type, sequence, strict=True)) if pair[0] != pair[1])
        if places:
            letters = (("".join(protein[place] for place in places)) for protein in (wild_type, sequence))
            variants.append(Variant(places, *letters))
            indices.append(index)
    return wild_type, variants, np.array(indices)


def gb1(path: Path, model: Path | None) -> None:
    task = load_task(path, name="gb1", level="protein", label="number")
    wild_type, variants, indices = variants_of(task)
    inference = ProtT5nvInference(model)
    start = time.perf_counter()
    found = score_variants(wild_type, variants, inference)
    print(f"{len(variants):,} variants of {len(wild_type)} residues, scored in {time.perf_counter() - start:.0f} s\n")

    def summed(score) -> list[float]:
        return [sum(score(w, m) for w, m in zip(v.wild_type, v.mutant, strict=True)) for v in variants]

    scores = {
        f"{model or 'built-in model'}, joint": [score.joint for score in found],
        f"{model or 'built-in model'}, additive": [score.additive for score in found],
        "BLOSUM62": summed(lambda wild, new: BLOSUM62[wild][new] - BLOSUM62[wild][wild]),
        "composition": summed(lambda wild, new: np.log(COMPOSITION[new] / COMPOSITION[wild])),
        "fewer substitutions": [-len(variant.places) for variant in variants],
    }
    changed_P = np.array([len(variant.places) for variant in variants])
    groups = {"all": changed_P > 0} | {f"{n} changed": changed_P == n for n in (2, 3, 4)}
    print("| score | " + " | ".join(f"{name}, {chosen.sum():,}" for name, chosen in groups.items()) + " |")
    print("|---|" + "---|" * len(groups))
    for name, values in scores.items():
        cells = []
        for chosen_P in groups.values():
            if name.startswith("fewer") and chosen_P is not groups["all"]:
                cells.append("")
                continue
            outputs = [np.array([values[p]], dtype=np.float32) for p in np.flatnonzero(chosen_P)]
            spearman = evaluate(task, indices[chosen_P], [outputs])["spearman"]
            cells.append(f"{spearman['mean']:.3f} [{spearman['low']:.3f}, {spearman['high']:.3f}]")
        print(f"| {name} | " + " | ".join(cells) + " |")


def speed(length: int, copies: int) -> None:
    rng = np.random.default_rng(0)
    protein = "".join(rng.choice(list(AMINO_ACIDS), length))
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads; a protein of {length} residues\n")
    print("| model | precision | residues/s | share of the best products | all substitutions take |")
    print("|---|---|---|---|---|")
    for name, model in (("built-in", None), ("full size, random weights", ProtT5(ModelConfig.preset("prott5nv")))):
        inference = ProtT5nvInference(model)
        config, network = inference.config, inference.network
        # The small model takes all residues, the large one as many as were asked for; each costs the same.
        places = range(length) if model is None else range(0, length, max(1, length // copies))
        variants = [Variant((place,), protein[place], "A") for place in places]
        peak = matmul_rate(config, 2048)
        rate = len(variants) * length / seconds(partial(score_variants, protein, variants, inference))
        peak = max(peak, matmul_rate(config, 2048))
        # A residue passes the encoder and the decoder's keys and values; the decoder itself reads two tokens a copy.
        weights = sum(p.numel() for p in network.encoder.parameters() if p.ndim == 2)
        weights += sum(layer.inter_attention.key_value.weight.numel() for layer in network.decoder.layers)
        share = 2 * weights * rate / peak
        took = f"{length**2 / rate:,.1f} s"
        print(f"| {name} | {inference.hardware.precision} | {rate:,.0f} | {share:.0%} | {took} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    on_gb1 = commands.add_parser("gb1")
    on_gb1.add_argument("path", type=Path, help="FLIP's table, or what prott5nv prepare flip made of it")
    on_gb1.add_argument("--model", type=Path, help="a .nemo file; by default the built-in model")
    timed = commands.add_parser("speed")
    timed.add_argument("--residues", type=int, default=300)
    timed.add_argument("--copies", type=int, default=40, help="masked proteins of the full-size model to time")
    arguments = parser.parse_args()
    if arguments.command == "gb1":
        gb1(arguments.path, arguments.model)
    else:
        speed(arguments.residues, arguments.copies)


if __name__ == "__main__":
    main()
