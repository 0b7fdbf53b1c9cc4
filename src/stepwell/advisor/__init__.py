"""The advisor: from a training to a recipe with reasons, sources and doubt.

`stepwell.advise` and `stepwell.recipe` are in `advice`; the data and their provenance in `data/`.
"""
