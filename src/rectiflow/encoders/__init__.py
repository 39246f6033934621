"""Text encoders, tokenizers and the autoencoder, each behind one small type."""
