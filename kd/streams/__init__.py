"""Streams: where training input comes from. Batches are dictionaries; inputs are under `"x"`."""

from kd.streams.composition import map_batch as map_batch
from kd.streams.composition import with_signs as with_signs
from kd.streams.generators import gaussian_noise as gaussian_noise
from kd.streams.labelling import CacheTooLargeError as CacheTooLargeError
from kd.streams.labelling import cache_bytes as cache_bytes
from kd.streams.labelling import label as label
from kd.streams.labelling import label_dataset as label_dataset
from kd.streams.resampling import bootstrap as bootstrap
from kd.streams.resampling import resample as resample
