# Two images, both run as a user without privileges. Mount the folder with your data as /data.
#
#   docker build --target cpu -t prott5nv .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" prott5nv embed proteins.fasta -o proteins.h5
#
#   docker build --target train -t prott5nv:train .
#   docker run --rm --user "$(id -u):$(id -g)" --gpus all --ipc=host -v "$PWD:/data" prott5nv:train \
#       model.data.dataset_path=/data/uniref50 exp_manager.exp_dir=/data/results
#
# PyTorch and the training frameworks are installed before the package, so that Docker reuses these large layers when
# only the package changes. constraints.txt holds their versions.

FROM python:3.11-slim AS base
# Some libraries need a writable home folder, which an arbitrary --user does not have.
ENV HOME=/tmp
RUN useradd --no-create-home prott5nv && mkdir /data && chown prott5nv /data
COPY constraints.txt /opt/prott5nv/
WORKDIR /data

FROM base AS cpu
RUN pip install --no-cache-dir -c /opt/prott5nv/constraints.txt --index-url https://download.pytorch.org/whl/cpu "torch"
COPY . /opt/prott5nv
RUN pip install --no-cache-dir -c /opt/prott5nv/constraints.txt "/opt/prott5nv"
USER prott5nv
ENTRYPOINT ["prott5nv"]

# PyTorch's Linux wheels bring their CUDA libraries; the host needs only a driver.
FROM base AS train
RUN pip install --no-cache-dir -c /opt/prott5nv/constraints.txt "torch" "nemo_toolkit[core]" "megatron-core" "lightning"
COPY . /opt/prott5nv
RUN pip install --no-cache-dir -c /opt/prott5nv/constraints.txt "/opt/prott5nv[train]"
USER prott5nv
ENTRYPOINT ["prott5nv", "pretrain"]
