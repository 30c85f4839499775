"""The mathematics of flow matching: path, timesteps, loss. Owns the time convention (decision 0001)."""
