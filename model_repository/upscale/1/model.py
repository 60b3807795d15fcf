def TritonPythonModel() -> object:  # noqa: N802
    from darkroom.pipelines.upscale.model import UpscaleModel  # not above: see model_code in exporters/config.py

    return UpscaleModel()
