"""Families that take turns in the memory of a device (DEVICE_MEMORY_GB, docs/decisions/0047-memory-of-a-device.md)."""
