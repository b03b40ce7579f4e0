"""What the theme leaves undone for readers who use a keyboard or a screen reader."""


def setup(app):
    return {"parallel_read_safe": True, "parallel_write_safe": True}
