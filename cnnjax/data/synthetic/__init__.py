"""Images that need no file: bundled digits, drawn scenes."""
