"""`python launch.py --experiment=NAME`: the launcher of a checkout. Where cnnjax is installed, `cnnjax` is the same."""

from cnnjax.__main__ import FLAGS, main, parse_flags, program

__all__ = ["FLAGS", "main", "parse_flags", "program"]

if __name__ == "__main__":
    program()
