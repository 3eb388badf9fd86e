"""Pretraining data: from a FASTA file to the micro-batches of an optimizer step.

In the order in which the data flow:

- ``download``: fetches a FASTA file from the web.
- ``prepare``: makes the CSV files of training, validation and test set, with ``splits``, which divides the proteins.
- ``groups``: groups of proteins that a split keeps together.
- ``memmap``: reads any record of the CSV files.
- ``dataset``: maps steps to samples, samples to records, and records to packed micro-batches.
- ``corruption``: masks spans of residues and builds the targets.

:mod:`prott5nv.pretraining.loader` makes data loaders of them.
"""

#: First line of every CSV file: the columns of BioNeMo v1.
CSV_HEADER = b"record_id,record_name,sequence_length,sequence"
