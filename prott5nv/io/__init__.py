"""Reading of protein files and atomic writing of all output files.

Reading, from the bottom up:

- ``source``: opens a file or standard input, with or without gzip compression. All input starts here.
- ``fasta``, ``delimited``, ``parquet``: convert one format each to records. ``delimited`` reads CSV and TSV.
- ``reader``: ``read_records`` detects the format and calls the right one of them.
- ``record``: a :class:`Record` is the id, sequence, description and line of one protein.

Writing:

- ``atomic``: every output file and folder is written with it, so it appears under its final name only when complete.
- ``table``: CSV files.
"""
