"""`stepwell lint`: mistakes in training scripts, found before the run."""
