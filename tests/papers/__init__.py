"""The referee: every optimizer once more, in float64 NumPy, written from its paper.

Each file holds one optimizer and one public function,

    trajectory(params, grads, *, <hyperparameters>) -> params after all steps

where `grads[t][i]` is the gradient of tensor i at step t, or None when that tensor had none: then nothing of it
moves, not even its decay, and its step count stands still. Methods that choose where gradients are taken (SAM, ASAM)
get a function instead of `grads`; those around another optimizer have it written out inside. The files share no code,
so that each can be held beside its paper, and none of them imports torch or the library under test. `test_papers.py`
holds the transcriptions themselves to torch.optim and to results worked by hand, `test_around.py` those of methods
around another optimizer.
"""
