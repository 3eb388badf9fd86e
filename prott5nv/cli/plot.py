"""``prott5nv plot``: proteins as points."""

from __future__ import annotations

from pathlib import Path

import click

from prott5nv.cli import options


@click.command()
@click.argument("store", metavar="STORE.h5")
@click.option("-o", "--output", type=options.NewFile(".html", ".png"), metavar="FILE",
              help="Ends in .html or .png; by default STORE.html.")  # fmt: skip
@click.option("--color-by", metavar="TSV", help="Labels or numbers: a header line, then accession, tab, label.")
@click.option("--method", type=click.Choice(["pca", "umap"]), default="pca", show_default=True,
              help="pca: the directions of largest variance. umap: neighbours stay together.")  # fmt: skip
def command(store, output, color_by, method):
    """Show proteins as points: similar ones lie together.

    Each protein is the mean over its residues. The HTML page needs nothing else: point at a protein to read its name,
    find one by its name, zoom with the wheel, click on a label to hide its proteins. A table of numbers gives a scale
    of colours; of many labels, the 18 most frequent get a colour each.

    \b
    Examples:
      prott5nv plot proteins.h5
      prott5nv plot proteins.h5 --color-by families.tsv -o families.png
      prott5nv plot proteins.h5 --color-by lengths.tsv --method umap
    """
    output = output or Path(store).with_suffix(".html")

    from prott5nv.embedding.store import EmbeddingStore
    from prott5nv.plots.projection import pooled_embeddings, principal_components, umap_points
    from prott5nv.plots.scatter import read_labels, write_html, write_png

    with EmbeddingStore(store) as opened:
        keys, pooled_ND = pooled_embeddings(opened)
    labels = read_labels(color_by, keys) if color_by else None
    if method == "umap":
        points_N2, axes = umap_points(pooled_ND), ["UMAP 1", "UMAP 2"]
    else:
        points_N2, explained = principal_components(pooled_ND)
        axes = [f"PC{number} ({share:.0%} of the variance)" for number, share in enumerate(explained, 1)]
    if output.suffix == ".png":
        write_png(output, points_N2, axes, labels)
    else:
        write_html(output, keys, points_N2, axes, labels)
    click.echo(f"{output}: {len(keys):,} proteins")
