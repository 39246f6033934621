"""Raw pictures and captions to an encoded store."""
