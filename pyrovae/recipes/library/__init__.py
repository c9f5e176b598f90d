"""The recipes of this library, one to a file. Each imports what it builds when it runs."""
