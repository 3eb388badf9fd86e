"""Pretraining data: UniRef50 prepared as CSV files, and read back as corrupted, packed batches."""

#: First line of every CSV file: BioNeMo's columns.
CSV_HEADER = b"record_id,record_name,sequence_length,sequence"
