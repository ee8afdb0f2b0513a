"""The whole paper, trained and tested at a size of your choice: ``reproduce.py``."""
