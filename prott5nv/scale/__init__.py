"""Ray: batch inference with Ray Data, files of any size with ``prott5nv embed --ray``, and ``prott5nv serve``.

`embed_proteins.EmbedProteins` is a class for the ``map_batches`` method of a Ray dataset. `job.embed_on_ray` embeds a
file: `input_parts` checks the input and cuts it into shards, the actors of `embed_shards` write one Parquet file for
each of them, and `prott5nv.embedding.shard_folder` reads the result.

`server` is the application for Ray Serve. `model_replica` holds the model, and the modules ``http_*`` answer requests.

Ray is imported only where it is needed, so that the package can be imported without it.
"""
