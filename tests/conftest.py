"""Shapes in annotations are checked in every test; threads are few, since tests run side by side."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook(
    ["sublora.nn", "sublora.coding", "sublora.bounds", "sublora.corpus", "sublora.training", "sublora.report"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)
