"""How many planted mistakes `stepwell lint` finds, and how fast it is. `__main__.py` says how to run this."""
