"""What is looked at in a corpus: statistics of images, their likeness, agreement with prompts, safety; and the page."""
