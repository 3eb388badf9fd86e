"""``prott5nv plot``: plot proteins as points, coloured by a table."""

from __future__ import annotations

from pathlib import Path

import click

from prott5nv.cli import options
from prott5nv.extras import require_extra
from prott5nv.io.output import check_outputs
from prott5nv.io.text import counted


@click.command()
@click.argument("store", metavar="STORE.h5")
@click.option("-o", "--output", type=options.NewFile(".html", ".png", others=False), metavar="FILE",
              help="File to write: an interactive page (.html) or a picture (.png). The default is "
              "STORE.html.")  # fmt: skip
@click.option("--color-by", metavar="TSV",
              help="Tab-separated table that sets the colours. It has a header line, accessions in the first column, "
              "and labels or numbers in the second. The page shows further columns when you point at a "
              "protein.")  # fmt: skip
@click.option("--method", type=click.Choice(["pca", "umap"]), default="pca", show_default=True,
              help="Projection to two dimensions. pca shows the two directions of largest variance. umap keeps similar "
              "proteins together, and distances between groups have no meaning; it also needs the extra "
              "umap.")  # fmt: skip
@options.overwrite
def command(store: str, output: Path | None, color_by: str | None, method: str, overwrite: bool) -> None:
    """Plot proteins as points. Proteins with similar embeddings are close together.

    STORE.h5 is a file that prott5nv embed wrote. Each protein is represented by the mean of its rows,
    or by its pooled vector if the file has one. The command needs the extra plot.

    The HTML page works without a network. You can search for a protein, zoom, and point at a protein to read its name
    and labels. Click a label in the legend to hide its proteins. More than 18 different numbers get a colour scale. Of
    more than 18 different texts, the 18 most frequent get a colour each, and the others are grey.

    \b
    Examples:
      prott5nv plot proteins.h5
      prott5nv plot proteins.h5 --color-by families.tsv -o families.png
      prott5nv plot proteins.h5 --color-by lengths.tsv --method umap
    """
    output = output or Path(store).with_suffix(".html")
    check_outputs([output], [store, color_by], overwrite=overwrite)
    if method == "umap":
        require_extra("umap", "UMAP")

    from prott5nv.embedding.store import EmbeddingStore
    from prott5nv.plots.labels import read_labels
    from prott5nv.plots.page import require_library
    from prott5nv.plots.projection import pooled_embeddings, principal_components, umap_points
    from prott5nv.plots.scatter import write_html, write_png

    require_library(output)
    with EmbeddingStore(store) as opened:
        keys, pooled_ND = pooled_embeddings(opened)
    labels = read_labels(color_by, keys) if color_by else None
    if method == "umap":
        points_N2, axes = umap_points(pooled_ND), ["UMAP 1", "UMAP 2"]
    else:
        points_N2, explained = principal_components(pooled_ND)
        axes = [f"PC{number} ({fraction:.0%} of the variance)" for number, fraction in enumerate(explained, 1)]
    if output.suffix == ".png":
        write_png(output, points_N2, axes, labels)
    else:
        write_html(output, keys, points_N2, axes, labels)
    options.report_written(output, counted(len(keys), "protein"))
