"""Plots of embeddings and of scores, as PNG pictures or interactive HTML pages.

Pictures need matplotlib, and pages of scatter plots and heat maps need plotly, both in the extra ``plot``. A page and a
picture of the same data have the same colours.

============== =====================================================================================
``projection`` pooled embeddings in two dimensions, by PCA or UMAP
``labels``     labels from a table, and the colours that stand for them
``scatter``    ``prott5nv plot``: proteins as points
``heat_map``   ``prott5nv score --plot``: scores of all single substitutions of a protein
``track``      ``prott5nv predict``: classes of residues beside the sequence
``page``       the HTML page around a figure, with a search box; works without a network
``*.js``       ``controls.js`` is shared by the pages; each of the others fits the layout of its page to
               the screen and answers the search box
============== =====================================================================================
"""
