"""Embeddings of proteins: from sequences to arrays, and from file to file.

How a line of a FASTA file becomes a stored embedding:

1. `prott5nv.io.reader.read_records` streams the records of a file.
2. `survey` checks each record, and counts the input in a first pass.
3. `chunks.ChunkedRun` turns the sequences of a chunk into token ids, and cuts long proteins into windows.
4. `batching.batches_of` cuts the windows, sorted by length, into batches by a budget of residues.
5. `runner.BatchRunner` packs a batch into one tensor, runs the encoder and copies the rows to the host.
6. `pooling.POOLINGS` holds the functions that turn one row per residue into one row per protein.
7. `journal.Journal` keeps finished proteins safe in the folder of `partial`, so that a killed run can resume.
8. `formats.write_output` writes the output file. `store` writes HDF5 and reads all formats, with `pooled_files`.

The other modules tie these steps together: `job.embed_file` embeds a file in this process, `run.run` does the same for
the command line, `workers.run_with_workers` uses several processes, and `merge.merge` joins their shards.
`sequences.seqs_to_embedding` embeds a list.

To add a pooling, add a function to `pooling.POOLINGS`. To add a file format, add its suffix to `formats`.
"""
