"""Judges: what looks at an image and says what is there."""
