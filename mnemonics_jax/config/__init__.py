"""The configuration of a run: its schema, presets, and settings by name."""
