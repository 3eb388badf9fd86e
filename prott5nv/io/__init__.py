"""Reading of protein files and atomic writing of all output files.

Reading, from the bottom up:

- ``source``: opens a file, a pipe or standard input, with or without gzip compression. All text input starts here.
- ``fasta``, ``delimited``, ``parquet``: convert one format each to records. ``delimited`` reads all CSV and TSV tables.
- ``cleaning``: removes or refuses what is not a residue.
- ``reader``: ``read_records`` detects the format, calls the right parser, and cleans the records.
- ``record``: a :class:`Record` is the id, sequence, description and line of one protein.

Writing:

- ``atomic``: every output file and folder is written with it, so it appears under its final name only when complete.
  ``work_folders`` has its temporary folders, ``exclusive`` the locks, and ``sync`` the way to the disk.
- ``table``: CSV files and lines of TSV.
- ``text``: wording of messages.
"""
