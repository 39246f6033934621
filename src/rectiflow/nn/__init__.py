"""The networks, in torch alone but for the two that wrap diffusers', and what they cost."""
