"""``prott5nv info``: what a checkpoint is."""

from __future__ import annotations

import hashlib

import click


@click.command()
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--verify", is_flag=True, help="Compare with the figures that NVIDIA published for prott5nv.nemo.")
def command(file, verify):
    """Say what a checkpoint is, without building the model.

    Prints the architecture, the number of parameters, the dtype of the weights, the tokenizer and the hash of FILE, and
    the model card where one lies beside it (FILE with the ending .md). Without FILE: the built-in model. Nothing in
    FILE is run.

    --verify embeds the two proteins of BioNeMo v1's own test and says, residue by residue, how far FILE is from the
    public checkpoint. The exit code is 1 if it is another model.

    \b
    Examples:
      prott5nv info
      prott5nv info prott5nv.nemo
      prott5nv info prott5nv.nemo --verify
    """
    from prott5nv.checkpoint import read_nemo

    if file is None:
        from prott5nv.assets import BUILTIN_MODEL

        file = BUILTIN_MODEL
    checkpoint = read_nemo(file, weights=False)
    for key, value in _facts(checkpoint):
        click.echo(f"{key:<11}{value}")
    card = checkpoint.path.with_suffix(".md")
    if card.is_file():
        click.echo(f"\n{card.read_text(encoding='utf-8').rstrip()}")
    if verify:
        click.echo()
        _verify(checkpoint)


def _facts(checkpoint):
    config = checkpoint.config
    written = {key: _printable(checkpoint.raw_config.get(key)) for key in ("target", "nemo_version")}
    gelu = "tanh" if config.bias_activation_fusion else "erf"
    widths = f"hidden size {config.hidden_size}, feed-forward {config.ffn_hidden_size}"
    digest = hashlib.sha256(checkpoint.tokenizer_model).hexdigest()
    yield "file", f"{checkpoint.path} ({checkpoint.path.stat().st_size / 1e6:.1f} MB)"
    yield "sha256", checkpoint.sha256
    yield "written as", f"{written['target']}, NeMo {written['nemo_version']}"
    yield "encoder", f"{config.num_layers} layers, {widths}, {config.num_attention_heads} heads, {gelu} GELU"
    yield "decoder", f"{config.decoder_num_layers} layers"
    yield "positions", f"{config.max_position_embeddings} residues at once"
    yield "parameters", f"{config.num_parameters:,}"
    yield "weights", ", ".join(sorted(checkpoint.dtypes))
    yield "tokenizer", f"ProtT5nv's 30 pieces and {config.num_sentinel_tokens} sentinels (file {digest[:16]})"


def _printable(value) -> str:
    """A stranger's text without what could steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in str(value)[:200])


def _verify(checkpoint):
    from prott5nv.checkpoint.public_checkpoint import TOLERANCE, compare, is_public
    from prott5nv.model.config import ModelConfig

    public = ModelConfig.preset("prott5nv")
    if checkpoint.config.num_parameters != public.num_parameters:
        click.echo(
            f"not the public checkpoint: {checkpoint.config.num_parameters:,} parameters, "
            f"the public one has {public.num_parameters:,}"
        )
        raise SystemExit(1)
    comparisons = compare(checkpoint.path)
    for comparison in comparisons:
        if comparison.kind == "row norms":
            click.echo(f"protein {comparison.protein}: norm of each residue's row")
            click.echo("residue  published     found   difference")
            for row, (published, found) in enumerate(zip(comparison.published, comparison.found, strict=True), start=1):
                click.echo(f"{row:>7}  {published:>9.3f} {found:>9.3f} {found - published:>+12.4f}")
    click.echo("\nprotein  figures                  largest |difference|  relative to their size")
    for comparison in comparisons:
        figures = f"{comparison.protein:>7}  {comparison.kind:<24} {comparison.largest_difference:>20.4f}"
        click.echo(f"{figures}  {comparison.relative:>22.2%}")
    if not is_public(comparisons):
        click.echo(f"\nnot the public checkpoint: figures are off by more than {TOLERANCE:.0%}")
        raise SystemExit(1)
    click.echo(f"\nthe public checkpoint: every figure within {TOLERANCE:.0%}, the noise of the published fp16 run")
