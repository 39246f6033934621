"""The command line: parse, resolve, call. Nothing heavy is imported before a verb runs."""
