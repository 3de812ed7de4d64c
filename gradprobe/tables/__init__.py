"""The pandas tables that users query, and the definition of every column."""
