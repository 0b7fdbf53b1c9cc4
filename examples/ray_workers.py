"""One comparison on the machines of a Ray cluster: Ray starts the workers, and they share the trials by a storage.

    pip install ray 'stepwell[train,tools,storage]'
    python ray_workers.py --workers 8 --storage postgresql://user@host/database

For Ray Tune users: each worker is an ordinary Ray task. Which trials are left follows from the outcomes in the storage,
so there is no searcher and no scheduler to configure. A worker that dies loses the trial that it runs; the other
workers run that trial again.
"""

from __future__ import annotations

import argparse

from stepwell.compare import Result, compare


def join(task: str, storage: str, number: int) -> Result:
    """One worker: takes part until every trial is done. All workers return the same table."""
    return compare(task, ["sgd", "adamw", "lion"], trials=8, seeds=3, jobs=1, storage=storage, out=f"runs/ray-{number}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="digits")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--storage", required=True)
    given = parser.parse_args()
    try:
        import ray
    except ImportError:
        raise SystemExit("ray_workers.py: Ray is not installed: pip install ray") from None
    ray.init()
    worker = ray.remote(num_cpus=1)(join)
    results = ray.get([worker.remote(given.task, given.storage, number) for number in range(given.workers)])
    print(results[0])


if __name__ == "__main__":
    main()
