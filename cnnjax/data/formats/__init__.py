"""Files that others write, a module each, and the rules they share; prepared records."""
