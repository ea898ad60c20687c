"""What the training labels show about an item, and the prompts that quote them. Imports `screens`."""
