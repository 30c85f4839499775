"""From prompts to a validated corpus and its embeddings."""
