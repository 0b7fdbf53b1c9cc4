#!/usr/bin/env bash
# One visit to a machine with a GPU: the facts, the tests marked gpu, and what a step costs, most important first.
#
#     bench/gpu.sh [--budget 520] [--only adamw,small]
#
# It needs a checkout and a Python with torch, triton, numba, numpy and pytest; stepwell need not be installed. PYTHON
# names the Python, OUT the folder for the figures. The options are those of gpu_visit.py.
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 2
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
    echo "gpu.sh: there is no $python here; name a Python that has torch: PYTHON=/path/to/python bench/gpu.sh" >&2
    exit 2
fi
export PYTHONPATH="$root/src:$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# $OUT is meant from where the command was typed; the tests must start from the root.
if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 2
    export OUT
fi
cd "$root" && exec "$python" bench/gpu_visit.py "$@"
