"""Between the text that people have and pairs fit to train on."""
