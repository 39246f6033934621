"""Where training pictures come from and the order in which they are read."""
