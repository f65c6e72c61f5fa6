"""Other engines on the same weights. The only part of ``loadtest`` that needs torch."""
