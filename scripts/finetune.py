"""Fine-tune on a FLIP task or on a table of your own, score the result and its baselines, and save one file.

    prott5nv prepare flip all --from http://data.bioembeddings.com/public/FLIP/fasta -o flip
    python scripts/finetune.py task=secondary_structure model.restore_encoder_path=prott5nv.nemo
    python scripts/finetune.py task=gb1 task.split=sampled mode=lora
    python scripts/finetune.py task=custom task.file=own.csv task.level=protein task.label=number task.head.name=mlp

Every setting in conf/finetune.yaml, conf/task.yaml and conf/task/ can be overridden by its dotted name.
`--cfg job` prints all of them.
"""

from prott5nv import limit_onednn_cache
from prott5nv.cli import one_line_errors
from prott5nv.extras import require_extra


def main() -> None:
    """Run the command line of this script."""
    with one_line_errors():
        require_extra("finetune", "fine-tuning")
        from prott5nv.cli import finetune
        from prott5nv.cli.threads import let_waiting_threads_sleep

        let_waiting_threads_sleep()
        limit_onednn_cache()
        finetune.run_program()


if __name__ == "__main__":
    main()
