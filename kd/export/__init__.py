"""The student alone: weights as safetensors, computation as StableHLO, verified on write.

An export is a directory of three files, and none of them is code of this library:

- `student.safetensors`: the weights, by name, and the only place that holds them;
- `student.stablehlo`: a serialised `jax.export` module of `(weights, x)` whose batch
  size is symbolic, lowered for every platform asked for;
- `student.json`: shapes, dtypes, metadata, and the SHA-256 of the two others.

`load_student` needs jax (with flatbuffers), numpy and safetensors, and nothing of
the training side; no file is ever unpickled.
"""

from kd.export.loading import Student, load_student
from kd.export.verification import ExportError
from kd.export.writing import export_student

__all__ = ["ExportError", "Student", "export_student", "load_student"]
