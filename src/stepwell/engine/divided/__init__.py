"""Matrices that are divided over processes: each has an owner, which computes its whole update (see `matrices.py`)."""
