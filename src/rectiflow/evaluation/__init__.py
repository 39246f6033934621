"""How good the pictures are: checkers, features, distances and suites of prompts."""
