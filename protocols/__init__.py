"""Evaluations of a frozen or fine-tuned encoder, one per file: `linear` is `protocols/linear.py`."""
