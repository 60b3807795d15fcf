def TritonPythonModel() -> object:  # noqa: N802
    from darkroom.pipelines.sd15.model import Sd15Model  # not above: see model_code in exporters/config.py
    from darkroom.serving.triton_pipeline import TritonPipeline

    return TritonPipeline(Sd15Model())
