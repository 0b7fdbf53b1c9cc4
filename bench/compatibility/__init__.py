"""What works together with stepwell: torch's own optimizer tests, and what people use around an optimizer.

`python bench/compatibility --help` says how `docs/compatibility.md` is printed.
"""
