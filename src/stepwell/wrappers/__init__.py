"""Optimizers around another optimizer: SAM, ASAM, Lookahead and Swats, and their base class.

They are in the table of `stepwell.optimizers`, where `create` and the command line find them by name.
"""
