"""The demo checkpoint of the Qwen-Image-Edit family."""
