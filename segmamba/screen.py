"""Lines on a rich Console. Imports nothing."""


def print_line(console, text, style=None):
    """As it is: brackets in a file's name are no markup, and no path is cut in two by a line's end."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
