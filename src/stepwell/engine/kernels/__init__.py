"""From printed text to machine code: the functions that kernels call, compilation, and the folder that keeps it."""
