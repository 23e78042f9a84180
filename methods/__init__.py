"""Self-supervised objectives, one per file: `ijepa` is `methods/ijepa.py`."""
