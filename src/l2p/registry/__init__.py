"""Lineage, the model registry and its gate."""
