"""One function per picture: arrays and small frozen records in, a Matplotlib figure out. Nothing is written here."""
