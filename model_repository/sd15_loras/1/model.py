def TritonPythonModel() -> object:  # noqa: N802
    from darkroom.pipelines.sd15.loras import Loras  # not above: see model_code in exporters/config.py
    from darkroom.serving.triton_pipeline import TritonPipeline

    return TritonPipeline(Loras())
