"""The doctor: watches a training run and says what is wrong."""
