"""Tables of a recording: the pandas DataFrames that users query, and the definition of every column."""
