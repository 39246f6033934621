"""Objectives: what is trained and on which loss. One loop trains them all."""
