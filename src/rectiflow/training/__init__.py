"""The training engine: recipes, objectives, the loop, its state and checkpoints."""
