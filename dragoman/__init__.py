"""Client of the Dragoman translation server."""
