"""One file per value of a recipe: how it is chosen from the situation, its neighbors and the consensus."""
