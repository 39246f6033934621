"""How good the pictures are: a checker of scenes, suites of prompts, what autoencoders keep."""
