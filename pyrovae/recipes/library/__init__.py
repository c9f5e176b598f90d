"""The recipes of this library, one in each file. A recipe imports its model only when it is called."""
