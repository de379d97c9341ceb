"""Streams: where training input comes from. Batches are dictionaries; inputs are under `"x"`."""

from kd.streams.augmentation import with_crops
from kd.streams.blocks import BlockState, blocks
from kd.streams.chains import ChainsState, ChainState, bag, chain, parallel_chains
from kd.streams.composition import (
    map_batch,
    merge,
    numbered,
    with_keys,
    with_masks,
    with_noise,
    with_relative_noise,
    with_signs,
)
from kd.streams.expectations import (
    ExpectationsState,
    estimate_bytes,
    forget,
    posterior_expectations,
)
from kd.streams.generators import (
    gaussian_noise,
    munge,
    nade_conditionals,
    nearest_neighbours,
)
from kd.streams.labelling import (
    CacheTooLargeError,
    cache_bytes,
    features_dataset,
    label,
    label_dataset,
    label_features,
)
from kd.streams.resampling import bootstrap, resample

__all__ = [
    "BlockState",
    "CacheTooLargeError",
    "ChainState",
    "ChainsState",
    "ExpectationsState",
    "bag",
    "blocks",
    "bootstrap",
    "cache_bytes",
    "chain",
    "estimate_bytes",
    "features_dataset",
    "forget",
    "gaussian_noise",
    "label",
    "label_dataset",
    "label_features",
    "map_batch",
    "merge",
    "munge",
    "nade_conditionals",
    "nearest_neighbours",
    "numbered",
    "parallel_chains",
    "posterior_expectations",
    "resample",
    "with_crops",
    "with_keys",
    "with_masks",
    "with_noise",
    "with_relative_noise",
    "with_signs",
]
