"""Sections of a recipe. Imports nothing heavy: reading a recipe costs no torch."""
