"""What others do, measured in the same run: a ratio without its anchor says nothing."""
