"""From prompts to pictures with a trained model."""
