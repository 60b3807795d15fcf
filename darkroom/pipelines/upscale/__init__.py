"""Image upscaling with Real-ESRGAN: tiles of one or many pictures share batches of one network model."""
