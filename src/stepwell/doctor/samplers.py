"""The distributed sampler of the training data: nobody hands it over, so it is looked for."""

from __future__ import annotations

import gc

from torch import distributed
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from stepwell.doctor.record import SamplerFacts


def find() -> SamplerFacts | None:
    """The one that shuffles, of a loader that is alive; None where processes do not train together, or where there are
    several. Looks through all objects: some 20 ms, so only a few times in a run."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    found = []
    for one in gc.get_objects():
        try:
            if (
                issubclass(type(one), DataLoader)
                and isinstance(one.sampler, DistributedSampler)
                and one.sampler.shuffle
            ):
                found.append(one.sampler)
        except (ReferenceError, AttributeError):
            continue
    if len({id(one) for one in found}) != 1:
        return None
    return SamplerFacts(bool(found[0].shuffle), int(found[0].epoch), int(found[0].num_samples))
