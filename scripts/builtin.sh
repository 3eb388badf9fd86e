#!/usr/bin/env bash
# The recipe of the model inside the package, from any FASTA file to prott5nv/assets/builtin.nemo:
#
#     bash scripts/builtin.sh proteins.fasta.gz [NAME=VALUE]...
#
# Clusters that headers name as c50=... stay on one side of the split. Given again, it goes on where it stopped; a name
# of conf/pretrain.yaml or conf/model.yaml with another value changes the training, such as trainer.max_steps=100.
set -euo pipefail
cd "$(dirname "$0")/.."
fasta=$(cd "$OLDPWD" && realpath "$1")
shift

[[ $(gzip -cdf "$fasta" | head -n 1 || true) == *" c50="* ]] && group=(--group-by c50) || group=()
[[ -d results/corpus ]] || prott5nv prepare uniref50 "$fasta" -o results/corpus --val 0.01 --test 0.01 "${group[@]}"

shape=(model=builtin model.data.dataset_path=results/corpus model.data.num_workers=0)
export OMP_NUM_THREADS=1  # a process a core
export THP_MEM_ALLOC_ENABLE=1  # PyTorch's large tensors in large pages: fewer page faults
python scripts/pretrain.py name=builtin "${shape[@]}" trainer.devices=2 trainer.max_steps=5500 \
    trainer.val_check_interval=500 trainer.limit_val_batches=30 "$@"
# What a card reports: the whole test split, masked as ProtT5nv is.
python scripts/pretrain.py name=builtin-test "${shape[@]}" do_training=false do_testing=true \
    model.data.masked_lm_prob=0.15 restore_from_path=results/builtin/builtin.nemo
python scripts/ship_model.py results/builtin/builtin.nemo
