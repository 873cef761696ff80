"""What is kept: conversations and their messages, in one SQLite file. Knows nothing of models or HTTP."""
