"""Image upscaling with Real-ESRGAN: tiles of one or many images share batches of one network model."""
