"""Reading and writing of checkpoints: ``.nemo`` files and Hugging Face folders.

``models`` opens a model of any kind: a ``.nemo`` file, the folder of a T5 model, or its name on the Hugging Face Hub.
Pretraining, inference, NeMo 1.x and BioNeMo v1 use the same ``.nemo`` layout, whose only reader is :func:`read_nemo`.
It runs no code from a file, writes nothing to disk under a name from the file, and limits the time and the memory that
a file can cost. This is also true of the readers of Hugging Face folders.

- ``reader`` and ``writer``: read and write a ``.nemo`` file. All other modules serve them.
- ``parameter_names``: mapping of parameter names between ``.nemo``, ``ProtT5`` and Megatron-Core; parameter shapes.
- ``archive``: the tar archive around everything.
- ``config_yaml``: the model configuration in the archive.
- ``weights``: the zip file of ``torch.save`` in the archive; ``state_dict_pickle``: the pickle inside that zip file.
- ``sentencepiece_file``: the tokenizer in the archive, which must have ProtT5nv's vocabulary.
- ``huggingface``: conversion to and from Hugging Face folders; ``huggingface_names``: their settings and parameter
  names; ``huggingface_files``: their tokenizer and model cards; ``safetensors_folder``: their weights.
- ``t5_folder``: reader of folders with other protein T5 models; ``t5_names``: their settings and parameter names;
  ``t5_vocabulary``: their token ids; ``hub``: download from the Hugging Face Hub.
- ``warm_start``: weights of another model, to initialize training.
- ``public_checkpoint``: comparison of a checkpoint with the published results of NVIDIA's checkpoint.
- ``published_t5``: comparison of a T5 model with the published embeddings of ProtT5-XL.
"""

from prott5nv.checkpoint.models import load
from prott5nv.checkpoint.reader import NemoFile, read_nemo
from prott5nv.checkpoint.warm_start import warm_start_weights
from prott5nv.checkpoint.writer import save_nemo

__all__ = ["NemoFile", "load", "read_nemo", "save_nemo", "warm_start_weights"]
