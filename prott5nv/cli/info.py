"""``prott5nv info``: description of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prott5nv.io.text import printable

if TYPE_CHECKING:
    from prott5nv.checkpoint import NemoFile


@click.command()
@click.argument("file", metavar="[FILE]", required=False)
@click.option(
    "--verify",
    is_flag=True,
    help="Test whether FILE is a published model, by comparing embeddings with published ones.",
)
def command(file: str | None, verify: bool) -> None:
    """Describe a checkpoint.

    FILE is a .nemo file, the folder of a protein T5 model that transformers wrote, or the name of such a model on the
    Hugging Face Hub (needs the extra hf).

    The command prints the architecture, the number of parameters, the data type of the weights, the tokenizer and the
    SHA-256 hash of FILE. If there is a model card next to FILE (the same name with the suffix .md), it prints the card,
    too. Without FILE, it describes the built-in model. Without --verify, it does not load the weights. It
    never runs code from FILE.

    With --verify, the command also embeds proteins with FILE in fp32, and compares the results with published ones. For
    a .nemo file, these are the two proteins of BioNeMo v1's own test and NVIDIA's public checkpoint. For a T5 model,
    they are proteins of ProtTrans and bio_embeddings, and ProtT5-XL trained on UniRef50 or BFD; this needs 5 GB of
    memory. The exit code is 1 if FILE is another model.

    \b
    Examples:
      prott5nv info
      prott5nv info prott5nv.nemo
      prott5nv info prott5nv.nemo --verify
      prott5nv info prot_t5_xl_half_uniref50-enc
    """
    from prott5nv.assets import BUILTIN_MODEL
    from prott5nv.checkpoint.models import local_path
    from prott5nv.checkpoint.reader import read_card, read_nemo

    path, _ = local_path(file or BUILTIN_MODEL)
    if path.is_dir():
        _describe_t5_folder(path)
        if verify:
            click.echo()
            _verify_t5(path)
        return
    checkpoint = read_nemo(path, weights=False)
    for key, value in _properties(checkpoint):
        click.echo(printable(f"{key:<11}{value}"))
    if text := read_card(path).rstrip():
        click.echo("\n" + "\n".join(map(printable, text.splitlines())))
    if verify:
        click.echo()
        _verify(checkpoint)


def _properties(checkpoint: NemoFile) -> Iterator[tuple[str, object]]:
    config = checkpoint.config
    written = {key: printable(checkpoint.raw_config.get(key))[:200] for key in ("target", "nemo_version")}
    gelu = "tanh" if config.bias_activation_fusion else "erf"
    widths = f"hidden size {config.hidden_size}, feed-forward {config.ffn_hidden_size}"
    digest = hashlib.sha256(checkpoint.tokenizer_model or b"").hexdigest()
    yield "file", f"{checkpoint.path} ({checkpoint.path.stat().st_size / 1e6:.1f} MB)"
    yield "sha256", checkpoint.sha256
    yield "written as", f"{written['target']}, NeMo {written['nemo_version']}"
    yield "encoder", f"{config.num_layers} layers, {widths}, {config.num_attention_heads} heads, {gelu} GELU"
    yield "decoder", f"{config.decoder_num_layers} layers"
    yield "positions", f"at most {config.max_position_embeddings} residues at once"
    yield "parameters", f"{config.num_parameters:,}"
    yield "weights", ", ".join(sorted(checkpoint.dtypes))
    yield (
        "tokenizer",
        f"ProtT5nv's vocabulary, {config.num_sentinel_tokens} sentinels (SHA-256 {digest[:16]}...)",
    )


def _describe_t5_folder(path: Path) -> None:
    from prott5nv.checkpoint.t5_folder import read_t5_folder
    from prott5nv.io.text import printable

    folder = read_t5_folder(path)
    config, vocabulary = folder.config, folder.vocabulary
    widths = f"hidden size {config.d_model}, feed-forward {config.d_ff}, {config.num_heads} heads of {config.d_kv}"
    gate = "gated " * config.gated
    buckets = f"{config.relative_attention_num_buckets} buckets up to {config.relative_attention_max_distance} residues"
    decoder = f"{folder.decoder_layers} layers in the files, which are not read" if folder.decoder_layers else "none"
    around = f"before a protein {list(vocabulary.prefix)}, behind it {list(vocabulary.suffix)}"
    properties = {
        "folder": f"{path} ({sum(file.stat().st_size for file in folder.files) / 1e6:.1f} MB)",
        "sha256": folder.sha256(),
        "written as": "T5 model of transformers",
        "encoder": f"{config.num_layers} layers, {widths}, {gate}{config.activation}",
        "decoder": decoder,
        "positions": f"no limit; relative, {buckets}",
        "parameters": f"{config.num_parameters:,} (encoder)",
        "weights": ", ".join(sorted(folder.dtypes)),
        "tokenizer": f"{config.vocab_size} tokens; {around}",
    }
    for key, value in properties.items():
        click.echo(printable(f"{key:<11}{value}"))


def _verify_t5(path: Path) -> None:
    """Print the comparison with the published embeddings, and exit with code 1 if it is another model."""
    import torch

    from prott5nv.checkpoint.published_t5 import TOLERANCE, compare_t5
    from prott5nv.checkpoint.t5_folder import load_t5

    agreements = compare_t5(load_t5(path, torch.float32))
    for one in agreements:
        click.echo(f"{one.name}: {one.figures} published figures, largest difference {one.relative:.2%} of their rms")
    if not agreements or agreements[0].relative > TOLERANCE:
        click.echo("This is neither ProtT5-XL-UniRef50 nor ProtT5-XL-BFD, or it was changed.")
        raise SystemExit(1)
    click.echo(f"This is {agreements[0].name}: all figures agree within {TOLERANCE:.0%}.")


def _verify(checkpoint: NemoFile) -> None:
    """Print the comparison with the public checkpoint, and exit with code 1 if it is another model."""
    from prott5nv.checkpoint.public_checkpoint import TOLERANCE, compare, is_public
    from prott5nv.model.config import ModelConfig

    public = ModelConfig.preset("prott5nv")
    if checkpoint.config.num_parameters != public.num_parameters:
        click.echo(
            f"This is not the public checkpoint: it has {checkpoint.config.num_parameters:,} parameters, "
            f"and the public one has {public.num_parameters:,}."
        )
        raise SystemExit(1)
    comparisons = compare(checkpoint.path)
    for comparison in comparisons:
        if comparison.kind == "row norms":
            click.echo(f"Protein {comparison.protein}: norm of the embedding of each residue")
            click.echo("residue  published  computed   difference")
            pairs = zip(comparison.published, comparison.computed, strict=True)
            for residue, (published, computed) in enumerate(pairs, start=1):
                click.echo(f"{residue:>7}  {published:>9.3f} {computed:>9.3f} {computed - published:>+12.4f}")
    click.echo("\nprotein  figures                  largest |difference|  relative to the rms")
    for comparison in comparisons:
        figures = f"{comparison.protein:>7}  {comparison.kind:<24} {comparison.largest_difference:>20.4f}"
        click.echo(f"{figures}  {comparison.relative:>19.2%}")
    if not is_public(comparisons):
        click.echo(f"\nThis is not the public checkpoint: figures differ by more than {TOLERANCE:.0%}.")
        raise SystemExit(1)
    click.echo(
        f"\nThis is the public checkpoint: all figures agree within {TOLERANCE:.0%}. NVIDIA computed them in fp16."
    )
