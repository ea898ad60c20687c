"""Publishing a training run: its adapter with a model card, its data with a data card, and the way back."""
