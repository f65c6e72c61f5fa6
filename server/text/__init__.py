"""Between a text and token ids."""
