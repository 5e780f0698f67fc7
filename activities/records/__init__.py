"""What is written down: the catalogue of saved versions and the ledger of outcomes."""
