"""The transfer: engine, loop, state, launch."""
