"""OpenAI's images API: what it means here. The routes are `proxy/surfaces/openai_images.py` and `openai_models.py`."""
