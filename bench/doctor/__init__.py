"""A bench of training runs, healthy ones and ones with a planted fault, for programs that watch a training run.

The watched program is handed in as `watch(model, optimizer)`; see `runs.py` for what is asked of it.
"""
