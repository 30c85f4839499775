"""How close two models' images of the same prompts are, beyond what a benchmark sees."""
