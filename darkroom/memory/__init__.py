"""Memory of devices with a budget (DEVICE_MEMORY_GB): what proxy and supervisor tell each other about loaded models.

See docs/decisions/0047-memory-of-a-device.md.
"""
