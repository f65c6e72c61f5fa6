"""Between source ids and target ids; knows no text and no protocol."""
