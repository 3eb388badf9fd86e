"""Plots of embeddings and of scores, as PNG pictures or interactive HTML pages.

Pictures need matplotlib and pages need plotly, both in the extra ``plot``. A page and a picture of the same data have
the same colours.

============== =====================================================================================
``projection`` pooled embeddings in two dimensions, by PCA or UMAP
``labels``     labels from a table, and the colours that stand for them
``scatter``    ``prott5nv plot``: proteins as points
``heat_map``   ``prott5nv score --plot``: scores of all single substitutions of a protein
``page``       the HTML page around a Plotly figure, with a search box; works without a network
``*.js``       ``controls.js`` is shared by the pages; ``scatter.js`` and ``heat_map.js`` fit the layout
               to the screen and answer the search box
============== =====================================================================================
"""
