# docker build --target cpu -t prott5nv .            embed on any machine
# docker build --target train -t prott5nv:train .    pretrain on GPUs: docker run --gpus all --ipc=host ...
FROM python:3.11-slim AS cpu
RUN pip install --no-cache-dir "torch==2.13.0" --index-url https://download.pytorch.org/whl/cpu
COPY . /opt/prott5nv
RUN pip install --no-cache-dir "/opt/prott5nv"
WORKDIR /data
ENTRYPOINT ["prott5nv"]

# PyTorch's wheels for Linux bring their CUDA libraries; the host needs a driver only.
FROM python:3.11-slim AS train
RUN pip install --no-cache-dir "torch==2.13.0" "nemo_toolkit[core]==3.0.0" "megatron-core==0.16.1" "lightning==2.4.0"
COPY . /opt/prott5nv
RUN pip install --no-cache-dir "/opt/prott5nv[train]"
WORKDIR /opt/prott5nv
ENTRYPOINT ["python", "scripts/pretrain.py"]
