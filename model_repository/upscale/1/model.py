from darkroom.pipelines.upscale.model import UpscaleModel as TritonPythonModel  # noqa: F401
