"""A small world with exact counterfactuals: procedural clips, a trained Wan VAE and transformer, and the scripts that made them."""
