"""The networks, in torch only: MM-DiT and its parts, and what they cost."""
