"""Optimizers around another one: SAM, ASAM, Lookahead and Swats, and the base that they share.

They stand in the table of `stepwell.optimizers`, where `create` and the command line find them by name.
"""
