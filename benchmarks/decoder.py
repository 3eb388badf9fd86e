"""Measure how well the decoder scores substitutions, and how fast.

    python benchmarks/decoder.py gb1 FLIP/gb1/two_vs_rest.csv.gz                       # the built-in model
    python benchmarks/decoder.py gb1 FLIP/gb1/two_vs_rest.csv.gz --model prott5nv.nemo
    python benchmarks/decoder.py speed

``gb1`` scores variants of the GB1 domain without training on them. FLIP ships them from Wu et al. 2016; they change
residues 39, 40, 41 and 54. The table lists Spearman's correlation with the measured fitness, with 95 % intervals from a
bootstrap over variants, beside scores that need no language model.

``speed`` scores single substitutions of a random protein and extrapolates to one at every position. It runs on a CPU.
"Fraction of matmul rate" compares the model's matmuls with the best rate of the same matmuls alone. It is measured
in bf16, or in fp32 on CPUs without bf16 instructions.

Shapes: P variants.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import BLOSUM62, argument_parser, describe_machine, matmul_rate, print_table, time_second_call

from prott5nv import Embedder, ModelConfig, ProtT5, limit_onednn_cache, score_variants
from prott5nv.decoding.masking import AMINO_ACIDS
from prott5nv.decoding.variants import Variant
from prott5nv.flip.metrics import evaluate
from prott5nv.flip.tasks import Task, load_task

SITES, WILD_TYPE = (39, 40, 41, 54), "VDGV"

# Percentage of each residue in Swiss-Prot, from its release statistics.
COMPOSITION = {
    **{"A": 8.25, "R": 5.53, "N": 4.06, "D": 5.46, "C": 1.38, "Q": 3.93, "E": 6.72, "G": 7.07, "H": 2.27, "I": 5.91},
    **{"L": 9.65, "K": 5.80, "M": 2.41, "F": 3.86, "P": 4.74, "S": 6.64, "T": 5.35, "W": 1.10, "Y": 2.92, "V": 6.86},
}


def variants_of(task: Task) -> tuple[str, list[Variant], np.ndarray]:
    """Find the wild type among the proteins, and describe the others by their differences from it.

    Parameters
    ----------
    task : Task
        FLIP's GB1 task.

    Returns
    -------
    wild_type : str
    variants : list of Variant
    indices_P : ndarray, shape=(P,), dtype=int64
        Number of each variant's protein in the task.
    """
    [wild_type] = [s for s in task.sequences if all(s[site - 1] == w for site, w in zip(SITES, WILD_TYPE, strict=True))]
    variants, indices = [], []
    for index, sequence in enumerate(task.sequences):
        positions = tuple(i for i, (wild, new) in enumerate(zip(wild_type, sequence, strict=True)) if wild != new)
        if positions:
            wild, mutant = ("".join(protein[i] for i in positions) for protein in (wild_type, sequence))
            variants.append(Variant(positions, wild, mutant))
            indices.append(index)
    return wild_type, variants, np.array(indices)


def summed(variants: Sequence[Variant], score: Callable[[str, str], float]) -> list[float]:
    """Sum a score of single substitutions over the substitutions of each variant."""
    return [sum(score(wild, new) for wild, new in zip(v.wild_type, v.mutant, strict=True)) for v in variants]


def benchmark_gb1(path: Path, model: Path | None) -> None:
    task = load_task(path, name="gb1", level="protein", label="number")
    wild_type, variants, indices_P = variants_of(task)
    embedder = Embedder(model)
    start = time.perf_counter()
    results = score_variants(wild_type, variants, embedder)
    print(f"{len(variants):,} variants of {len(wild_type)} residues, scored in {time.perf_counter() - start:.0f} s\n")
    name = str(model or "built-in model")
    changes = np.array([len(variant.mutant) for variant in variants])
    scores = {
        f"{name}, joint": [result.joint for result in results],
        f"{name}, additive": [result.additive for result in results],
        "BLOSUM62": summed(variants, lambda wild, new: BLOSUM62[wild][new] - BLOSUM62[wild][wild]),
        "composition": summed(variants, lambda wild, new: float(np.log(COMPOSITION[new] / COMPOSITION[wild]))),
        "fewer substitutions": (-changes).tolist(),
    }
    groups = {"all": changes > 0} | {f"{n} substitutions": changes == n for n in (2, 3, 4)}

    def rows() -> Iterator[Sequence[str]]:
        for label, values in scores.items():
            cells = []
            for chosen_P in groups.values():
                values_P = np.array(values, dtype=np.float32)[chosen_P]
                if (values_P == values_P[0]).all():  # the correlation of a constant is not defined
                    cells.append("")
                    continue
                result = evaluate(task, indices_P[chosen_P].tolist(), [list(values_P[:, None])])["spearman"]
                cells.append(f"{result['mean']:.3f} [{result['low']:.3f}, {result['high']:.3f}]")
            yield label, *cells

    print_table(("score", *(f"{group}, {chosen.sum():,}" for group, chosen in groups.items())), rows())


def benchmark_speed(length: int, substitutions: int) -> None:
    rng = np.random.default_rng(0)
    protein = "".join(rng.choice(list(AMINO_ACIDS), length))
    torch.manual_seed(0)
    print(f"{describe_machine()}; a protein of {length} residues\n")

    def rows() -> Iterator[Sequence[str]]:
        # Scoring every position with the large model takes minutes; each one costs the same, so some are enough.
        large = range(0, length, max(1, length // substitutions))
        yield measure_speed("built-in", None, protein, range(length))
        yield measure_speed("full size, random weights", ProtT5(ModelConfig.preset("prott5nv")), protein, large)

    print_table(("model", "precision", "residues/s", "fraction of matmul rate", "all positions take"), rows())


def measure_speed(name: str, model: ProtT5 | None, protein: str, positions: Sequence[int]) -> Sequence[str]:
    """Score one substitution at each of the positions and return the model's row of the table."""
    embedder = Embedder(model, device="cpu")
    network = embedder.network
    variants = [Variant((i,), protein[i], "A") for i in positions]
    before = matmul_rate(network.encoder)
    rate = len(variants) * len(protein) / time_second_call(partial(score_variants, protein, variants, embedder))
    peak = max(before, matmul_rate(network.encoder))  # other programs may slow down one of the two measurements
    # Each residue passes through the encoder and the keys and values of the decoder's attention to it. The decoder's
    # own work is negligible: two tokens per variant.
    weights = sum(p.numel() for p in network.encoder.parameters() if p.ndim == 2)
    weights += sum(
        p.numel() for name, p in network.decoder.named_parameters() if name.endswith("inter_attention.key_value.weight")
    )
    took = f"{len(protein) ** 2 / rate:,.1f} s"
    return name, embedder.hardware.precision, f"{rate:,.0f}", f"{2 * weights * rate / peak:.0%}", took


def main() -> None:
    limit_onednn_cache()
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gb1 = commands.add_parser("gb1", help="Score GB1 variants and correlate the scores with their fitness.")
    gb1.add_argument("path", type=Path, help="FLIP's table, or what prott5nv prepare flip made of it.")
    gb1.add_argument("--model", type=Path, help="A .nemo file. The default is the built-in model.")
    speed = commands.add_parser("speed", help="Time the scoring of single substitutions.")
    speed.add_argument("--residues", type=int, default=300, help="Length of the protein.")
    speed.add_argument("--substitutions", type=int, default=40, help="Number to score with the full-size model.")
    arguments = parser.parse_args()
    if arguments.command == "gb1":
        benchmark_gb1(arguments.path, arguments.model)
    else:
        benchmark_speed(arguments.residues, arguments.substitutions)


if __name__ == "__main__":
    main()
