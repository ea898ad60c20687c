"""One client for OpenAI-compatible servers, with its settings and its budget. Imports `rewards` and `chat`."""
