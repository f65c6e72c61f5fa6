"""The doors: one file a protocol; wire types end here."""
