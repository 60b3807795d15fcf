"""Keys: who may use the service, what belongs to whom, and how much each key may use. See docs/keys.md."""
