"""Scoring and filling with the decoder: variants, pseudo-perplexity, missing residues.

The encoder sees a protein in which some residues are masked: each is replaced by a sentinel token of its own, as in
pretraining. The decoder then predicts the residue behind each sentinel. Its distribution over the 20 amino acids is all
that this package uses of it.

Positions count from 1, as in ``V39A`` and in every table; indices count from 0.

Where to look, from what users call down to the network:

============== ==========================================================================================
``variants``   ``score_variants``: log-odds of given variants such as ``V39A`` or ``D40G:V54L``
``marginals``  ``score_substitutions`` (all single substitutions) and ``pseudo_perplexity``
``fill``       ``fill``: residues for the gaps (``?``) of a protein, by beam search or sampling
``tables``     the files that ``prott5nv score`` and ``prott5nv fill`` read and write
``queries``    many masked proteins in few batches: ``MaskedQuery``, ``run_queries``
``masking``    token sequences with sentinels for the encoder and the decoder
``kv_cache``   the decoder, a few tokens at a time, with cached attention keys and values
============== ==========================================================================================
"""
