"""Text encoders and autoencoder of the released models, from the files that users have of them."""
