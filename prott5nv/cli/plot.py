"""``prott5nv plot``: plot proteins as points, coloured by a table."""

from __future__ import annotations

from pathlib import Path

import click

from prott5nv.cli import options
from prott5nv.extras import require_extra
from prott5nv.io.text import counted
from prott5nv.plots.pictures import PICTURES


@click.command()
@click.argument("store", metavar="STORE")
@click.option("-o", "--output", type=options.NewFile(".html", *PICTURES, others=False), metavar="FILE",
              help="File to write: an interactive page (.html) or a picture (.png, .svg or .pdf). The default is "
              "name of STORE with the suffix .html.")  # fmt: skip
@click.option("--color-by", metavar="TABLE",
              help="TSV or CSV table that sets the colours, such as one that UniProt offers for download. It has a "
              "header line, and one column with accessions, entry names or full ids. The page shows and searches all "
              "columns.")  # fmt: skip
@click.option("--column", metavar="NAME",
              help="Column of TABLE that holds the labels or numbers. The default is the first with 2 to 20 different "
              "values in which several proteins share a value, or else the first.")  # fmt: skip
@click.option("--method", type=click.Choice(["pca", "umap"]), default="pca", show_default=True,
              help="Projection to two dimensions. pca shows the two directions of largest variance. umap keeps similar "
              "proteins together, and distances between groups have no meaning; it also needs the extra "
              "umap.")  # fmt: skip
@options.overwrite
def command(
    store: str, output: Path | None, color_by: str | None, column: str | None, method: str, overwrite: bool
) -> None:
    """Plot proteins as points. Proteins with similar embeddings are close together.

    STORE is an .h5, .npz or .parquet file that prott5nv embed wrote. Each protein is represented by the mean of its
    rows, or by its pooled vector if the file has one. The command needs the extra plot.

    The HTML page works without a network. You can search in all columns, zoom, point at a protein to read its name and
    labels, and click on it to list them. Click a label in the legend to hide its proteins. Up to 8 labels differ in
    colour, and up to 24 in colour and shape. Numbers get a colour scale if there are more than 24 different ones, or
    more than 8 and most proteins have a number of their own. Of more than 24 texts, the 24 most frequent are groups,
    and the others are grey.

    \b
    Examples:
      prott5nv plot proteins.h5
      prott5nv plot proteins.h5 --color-by families.tsv -o families.png
      prott5nv plot proteins.h5 --color-by uniprot.tsv.gz --column Organism --method umap
    """
    if column is not None and color_by is None:
        raise click.UsageError("--column names a column of the table that --color-by gives")
    output = output or Path(store).with_suffix(".html")
    options.reserve_outputs([output], [store, color_by], overwrite=overwrite)
    if method == "umap":
        require_extra("umap", "UMAP")

    from prott5nv.embedding.store import EmbeddingStore
    from prott5nv.plots.labels import read_labels
    from prott5nv.plots.page import require_library
    from prott5nv.plots.projection import pooled_embeddings, principal_components, umap_points
    from prott5nv.plots.scatter import write_html, write_picture

    require_library(output)
    with EmbeddingStore(store) as opened:
        proteins, pooled_ND = pooled_embeddings(opened)
        name, sha256 = (opened.attributes.get(attribute, "") for attribute in ("model_name", "model_sha256"))
    model = f"{name} {sha256[:8]}".strip() or "unknown"
    labels = read_labels(color_by, proteins, column) if color_by else None
    if labels and column is None and labels.columns:
        choices = ", ".join(header for header, _ in labels.columns)
        options.note(f"coloured by {labels.title}; --column chooses another: {choices}")
    if method == "umap":
        options.note("computing the UMAP projection; the first use takes longer, because umap-learn compiles its code")
        points_N2, axes = umap_points(pooled_ND), ["UMAP 1", "UMAP 2"]
    else:
        points_N2, explained = principal_components(pooled_ND)
        axes = [f"PC{number} ({fraction:.0%} of the variance)" for number, fraction in enumerate(explained, 1)]
    if output.suffix in PICTURES:
        write_picture(output, points_N2, axes, labels, model=model)
    else:
        write_html(output, proteins, points_N2, axes, labels, model=model)
    options.report_written(output, f"{counted(len(proteins), 'protein')}, model {model}")
