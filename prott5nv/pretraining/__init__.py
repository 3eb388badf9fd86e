"""Pretraining by span corruption, on NeMo, Megatron-Core and Lightning.

Where to find what, in the order of a run:

- ``config``: the settings, their types and ranges; ``presets``: training values of the presets.
- ``trainer``: :func:`~prott5nv.pretraining.trainer.pretrain`, which runs everything; start reading here.
- ``run_folder``: the folder of a run, its lock and its settings.
- ``loader``: optimizer steps of one rank, made of the samples of :mod:`prott5nv.data.dataset`.
- ``model``: the NeMo model, with the training and validation steps and checkpoints; ``network``: its base class, with
  the weights, the optimizer and the files.
- ``megatron``: the network, built from Megatron-Core's blocks; ``initialization``: initial weights for small models.
- ``hardware``: micro-batches, loader workers and compilation, as the machine allows.
- ``losses``: loss, metrics, checks of each step; ``optimizers``: optimizers and learning-rate schedules.
- ``parallel``: gradients over several processes; ``tensor_parallel``: shards of tensors.
- ``callbacks``: progress, throughput, checkpoints, signals; ``checkpoint_files``: their format, names and deletion;
  ``resume``: whether a run can resume from a checkpoint.
- ``downstream``: a score on a FLIP task after each validation; ``curves``: the plot at the end; ``flops``: operations
  of a step.
"""
