"""``prott5nv report``: fine-tuning runs side by side."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
def command(folder):
    """Put the runs of prott5nv finetune below a folder into one table.

    Each run stands beside its baselines and the published figures of the task, with the split that each is of. DIR gets
    report.md, report.json, report.png and report.html, a page that needs nothing else: confusion matrices, predicted
    against measured values, learning curves, scores by length.

    \b
    Example:
      prott5nv report results/finetune
    """
    from prott5nv.flip import require_extra

    require_extra()
    from prott5nv.flip.report import report

    for path in report(folder):
        click.echo(path)
