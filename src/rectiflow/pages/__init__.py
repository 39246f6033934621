"""Pages of one HTML file that need no network, script or other file: what reports are made of."""
