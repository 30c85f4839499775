"""One adapter per source family."""
