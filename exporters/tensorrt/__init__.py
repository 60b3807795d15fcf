"""ONNX models to TensorRT engines: what is to be built is data (plan), and only `build` needs TensorRT and a GPU."""
