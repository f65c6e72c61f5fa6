"""The page: type a text, see it translated, see where the model looked."""
