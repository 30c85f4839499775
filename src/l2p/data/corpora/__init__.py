"""The corpus as ordinary data: read from and written to the layouts of others, shown, compared, packed and checked."""
