"""The file formats of figures, apart from what draws them: the command line reads them before it loads Matplotlib."""

FORMATS = ("png", "svg", "pdf")
