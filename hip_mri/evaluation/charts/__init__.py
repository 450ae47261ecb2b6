"""Charts: one function per figure, which returns a Matplotlib figure."""
