"""Everything that fills the model repository: exports of checkpoints to ONNX, their parity checks, and configs."""

from darkroom.families_path import folders_of

__path__.extend(folders_of("exporters"))
