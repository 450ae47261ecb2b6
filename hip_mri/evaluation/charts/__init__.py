"""Charts: one function per figure, which returns a Matplotlib figure.

`notice` is the text of the banner, `threshold` the chosen threshold, and `group` the noun for images that stay in one
split, `group` or `patient`.
"""
