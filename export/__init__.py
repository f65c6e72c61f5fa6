"""From trained weights to a bundle that the server reads."""
