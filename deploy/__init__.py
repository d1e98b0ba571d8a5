"""What starts things, and what an operator edits."""
