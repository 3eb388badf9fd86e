"""What the decoder is for: scores of variants, missing residues, pseudo-perplexity.

`hiding` puts sentinels where residues are unknown, `cached_decoder` reads on from there, `questions` asks for many
proteins at once; `variants`, `marginals` and `fill` are what users call.
"""
