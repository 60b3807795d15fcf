def TritonPythonModel() -> object:  # noqa: N802
    from darkroom.pipelines.upscale.model import UpscaleModel  # not above: see model_code in exporters/config.py
    from darkroom.serving.triton_pipeline import TritonPipeline

    return TritonPipeline(UpscaleModel())
