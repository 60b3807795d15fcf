from darkroom.pipelines.sd15.model import Sd15Model as TritonPythonModel  # noqa: F401
