"""kd: moving knowledge from one model into another, in JAX.

Import the part you need: `kd.losses`, `kd.derivatives`, `kd.models`,
`kd.samplers`, `kd.inference`, `kd.streams`, `kd.training`, `kd.data`,
`kd.metrics`, `kd.export`, `kd.random`. This file imports nothing, so that one
part never pulls in another's dependencies.
"""

__version__ = "0.1.0"
