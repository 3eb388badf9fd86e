"""Damaged folders of interrupted embedding runs, which a second run must finish with the right output or refuse."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mutants import Outcome, damaged, outcome_of, run_attempts

from prott5nv import Embedder, EmbeddingStore, ModelConfig, ProtT5
from prott5nv.embedding.job import embed_file
from prott5nv.embedding.partial import partial_folder

_PROTEINS = 30
_LETTERS = "ACDEFGHIKLMNPQRSTVWY"


class _Interrupted(Exception):
    pass


def content(path: Path) -> Any:
    """Return everything in a store."""
    with EmbeddingStore(path) as store:
        return store.attributes, [(k, r.tobytes(), store.original_id(k)) for k, r in store.items()]


def interrupted_run(folder: Path, embedder: Embedder) -> Path:
    """Write an input and what a run leaves that is killed after some proteins; return the input."""
    rng = random.Random(0)
    fasta = folder / "proteins.fasta"
    fasta.write_text(
        "".join(f">sp|P{n:05}|X\n{''.join(rng.choices(_LETTERS, k=rng.randint(3, 12)))}\n" for n in range(_PROTEINS))
    )
    done = 0

    def interrupt(residues: int) -> None:
        nonlocal done
        done += residues
        if done > 120:
            raise _Interrupted

    with suppress(_Interrupted):
        embed_file(fasta, folder / "out.h5", embedder, on_progress=interrupt)
    return fasta


def attack_journals(folder: Path, files: int, seed: int) -> Outcome:
    """Damage, cut, exchange or remove a file of an interrupted run, and run it again."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig(num_layers=1, hidden_size=8, ffn_hidden_size=16, num_attention_heads=2)
    embedder = Embedder(ProtT5(config).eval(), device="cpu", precision="fp32")
    fasta = interrupted_run(folder, embedder)
    partial = partial_folder(folder / "out.h5")
    embed_file(fasta, folder / "expected.h5", embedder)
    expected = content(folder / "expected.h5")
    names = sorted(path.name for path in partial.iterdir())

    def attempt(number: int, work: Path) -> tuple[str, str]:
        rng = random.Random(f"{seed} {number}")
        output = work / "out.h5"
        copy = partial_folder(output)
        shutil.copytree(partial, copy)
        file = copy / rng.choice(names)
        match rng.randrange(8):
            case 0:
                file.unlink()
            case 1:
                file.write_bytes(b"")
            case 2:  # lines that another run may have written in another order
                lines = file.read_bytes().splitlines(keepends=True)
                rng.shuffle(lines)
                file.write_bytes(b"".join(lines))
            case _:
                file.write_bytes(damaged(rng, file.read_bytes()))

        def resume() -> bool:
            embed_file(fasta, output, embedder)
            return bool(content(output) == expected)

        result = outcome_of(resume, output)
        output.unlink(missing_ok=True)
        shutil.rmtree(copy, ignore_errors=True)
        return result

    return run_attempts(attempt, [f"run {number}" for number in range(files)])
