"""How a prompt set is made: candidates from files, the taxonomy and language models, quality rules, and its card."""
