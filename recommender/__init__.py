"""A real cascade on MovieLens: trained channels and rankers, measured CPU, revenue from likes that nobody trained on."""

import os

# Before numpy: costs are CPU time of the whole process, and waiting threads burn it.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import marca_common as marca_common  # noqa: E402 - settles what must be settled before anything heavy is imported
