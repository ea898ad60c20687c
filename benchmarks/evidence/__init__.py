"""What the training labels say about an item, and the prompts that quote it. Imports `screens`."""
