"""The kinds of evidence that a prompt can quote. Each has a file with two functions: what it quotes, and how."""
