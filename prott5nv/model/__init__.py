"""The model in plain PyTorch, and what it needs to run: no checkpoint, no file, no training framework.

- ``config``: architecture of a model (:class:`ModelConfig`), its presets, and the mapping to NeMo's configuration keys.
- ``nemo_keys``: configuration keys of NeMo that are the same for every model.
- ``tokenizer``: conversion of residues to token ids and back.
- ``prott5``: encoder, decoder and head (:class:`ProtT5`) over packed proteins, that is, without padding.
- ``attention``: attention within each protein of a packed batch. ``Packing`` holds the protein boundaries.
- ``dropout``: dropout that is cheap on a CPU.
- ``device``: choice of device and precision for the present hardware.
"""
