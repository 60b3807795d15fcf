"""Everything that fills the model repository: exports of checkpoints to ONNX, their parity checks, and configs."""
